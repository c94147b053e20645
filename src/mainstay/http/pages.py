"""How are many rows given a page at a time, at the same cost for the last page as for the first?

By keyset: the next page begins behind the last row that was given, which an index finds at once,
instead of counting off what comes before. The cursor is that row's sort key, written opaquely: a
client passes it back and reads nothing into it.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import orjson

from mainstay.errors import FieldError, Invalid

__all__ = [
    "DEFAULT_LIMIT",
    "MOST_LIMIT",
    "MOST_OFFSET",
    "cut",
    "decode_cursor",
    "encode_cursor",
]

DEFAULT_LIMIT = 50
MOST_LIMIT = 500
MOST_OFFSET = 10_000

_CURSOR = re.compile(r"[A-Za-z0-9_-]{2,1024}\Z")

Row = TypeVar("Row")
Position = tuple[Any, ...]


def encode_cursor(position: Sequence[object]) -> str:
    """Write the sort key of the last row given; times, numbers, text and UUIDs are understood."""
    return urlsafe_b64encode(orjson.dumps(list(position), default=str)).rstrip(b"=").decode()


def decode_cursor(cursor: str) -> Position:
    """Read a sort key: text, numbers, booleans and nulls, as JSON has them.

    Times and UUIDs come back as text; the caller says what it expects and parses it.

    Raises:
        Invalid: No page of ours ever gave this cursor.
    """
    try:
        if not _CURSOR.match(cursor):
            raise ValueError("not base64url")
        position = orjson.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, NotBase64):
        position = None
    scalars = (str, int, float, bool, type(None))
    if not isinstance(position, list) or not all(isinstance(one, scalars) for one in position):
        raise not_a_cursor()
    return tuple(position)


def not_a_cursor() -> Invalid:
    """Return what to raise for a cursor whose content no page of this route has given."""
    return Invalid(
        "the cursor is none that this route has given: begin without one",
        errors=[FieldError("/cursor", "query parameter: must be a next_cursor of this route")],
    )


def cut(
    rows: Sequence[Row], limit: int, position: Callable[[Row], Sequence[object]]
) -> tuple[list[Row], str | None]:
    """Split rows that were asked for with ``LIMIT limit + 1`` into a page and the next cursor.

    Args:
        position: Returns a row's sort key, unique columns last.
    """
    items = list(rows[:limit])
    return items, encode_cursor(position(items[-1])) if len(rows) > limit else None
