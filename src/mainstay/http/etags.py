"""Has the thing changed since the caller read it? Entity tags and `If-Match` (RFC 9110, 13.1.1)."""

from __future__ import annotations

import hashlib

import orjson

from mainstay.errors import PreconditionFailed

__all__ = ["check_if_match", "etag_of"]


def etag_of(*version: object) -> str:
    """Return the strong entity tag of a row: of its version, or of all that it shows."""
    digest = hashlib.sha256(orjson.dumps(version, default=str)).hexdigest()
    return f'"{digest[:32]}"'


def check_if_match(if_match: str | None, etag: str | None) -> None:
    """Pass when *if_match* allows to change a thing whose tag is *etag*.

    Args:
        if_match: The header's value; ``None`` allows any change.
        etag: ``None`` when there is no such thing.

    Raises:
        PreconditionFailed: The thing is another one by now, or gone.
    """
    if if_match is None:
        return
    if if_match.strip() == "*":
        if etag is not None:
            return
    elif etag is not None and etag in (tag.strip() for tag in if_match.split(",")):
        return
    raise PreconditionFailed(
        "it has changed since you read it: read it again, and send the change with its new ETag"
    )
