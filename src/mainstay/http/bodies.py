"""Can this body be read without harm?

Python's `json` reads what JSON does not have (`NaN`, half of a surrogate pair, numbers beyond a
double), nests as deep as its stack, and gives strings that PostgreSQL cannot store. All of it
would come out as a 500 much later, so it is answered here, where the client can be told. Of a name
that stands twice in one object it takes the last, where others take the first: two parts of a
system would then read two different bodies, so that is refused too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import orjson

from mainstay.errors import FieldError, Invalid, Malformed, TooLarge
from mainstay.http.problems import TimedOut

__all__ = [
    "JSON_DEPTH_LIMIT",
    "check_form",
    "check_json",
    "check_of",
    "cut_short",
    "is_json",
    "pointer_to",
    "too_large",
    "too_late",
]

JSON_DEPTH_LIMIT = 64

_JSON_TYPE = re.compile(r"\s*application/(?:[\w.+-]+\+)?json\s*(?:;|\Z)", re.IGNORECASE)
_FORM = "application/x-www-form-urlencoded"
_NUL_DETAIL = "must not hold the character U+0000: it cannot be stored"


def too_large(limit_bytes: int) -> TooLarge:
    """Return the refusal of a body that is longer than that."""
    return TooLarge(f"the body is larger than {limit_bytes} bytes: send less")


def too_late() -> TimedOut:
    """Return the refusal of a body that takes longer than its request may."""
    return TimedOut("the body did not come in time: send it faster")


def cut_short() -> Malformed:
    """Return the refusal of a body whose connection ended first."""
    return Malformed("the body ended before all of it had come")


def is_json(content_type: str) -> bool:
    """Does `Content-Type` announce JSON: `application/json`, or anything `+json`?"""
    return content_type == "application/json" or _JSON_TYPE.match(content_type) is not None


def check_of(content_type: str) -> Callable[[bytes], None] | None:
    """Return what looks at a whole body of *content_type*, if something does."""
    if is_json(content_type):
        return check_json
    return check_form if content_type.startswith(_FORM) else None


def check_json(body: bytes) -> None:
    """Pass when *body* is JSON (RFC 8259) that every part of a service can hold.

    Raises:
        Malformed: It is not, it is nested deeper than 64 levels, or an object in it has a name
            twice.
        Invalid: A string in it holds U+0000.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"the body is not JSON: {error}") from None
    # Most bodies have fewer brackets than levels are allowed, and are not looked into.
    if body.count(b"[") + body.count(b"{") > JSON_DEPTH_LIMIT and _is_too_deep(value):
        raise Malformed(
            f"the body is nested deeper than {JSON_DEPTH_LIMIT} levels: send it flatter"
        )
    if (colons := body.count(b":")) > 1:
        # Written again it has as many colons, unless a name has gone; but an escape may stand
        # for one more.
        may_have_twins = b"\\u" in body or orjson.dumps(value).count(b":") != colons
        if may_have_twins and (name := _find_twin(body)) is not None:
            raise Malformed(f"the body has the name {name[:100]!r} twice in one object: send one")
    if b"\\u0000" in body and (pointer := _find_nul(value)) is not None:
        raise Invalid("the body holds a character that cannot be stored", errors=[pointer])


def check_form(body: bytes) -> None:
    """Pass when a URL-encoded *body* holds nothing that cannot be stored.

    Raises:
        Invalid: A value in it holds U+0000.
    """
    if b"%00" in body or b"\x00" in body:
        raise Invalid(
            "the form holds a character that cannot be stored", errors=[FieldError("", _NUL_DETAIL)]
        )


def pointer_to(path: tuple[object, ...]) -> str:
    """Return the JSON pointer (RFC 6901) to the value at *path*: ``/items/0/name``."""
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in path)


def _is_too_deep(value: object) -> bool:
    level = [value]
    for _ in range(JSON_DEPTH_LIMIT):
        deeper: list[object] = []
        for one in level:
            if isinstance(one, list):
                deeper.extend(each for each in one if isinstance(each, list | dict))
            elif isinstance(one, dict):
                deeper.extend(each for each in one.values() if isinstance(each, list | dict))
        if not deeper:
            return False
        level = deeper
    return True


def _find_twin(body: bytes) -> str | None:
    found: list[str] = []

    def look(members: list[tuple[str, object]]) -> None:
        names: set[str] = set()
        for name, _ in members:
            if name in names:
                found.append(name)
            names.add(name)

    json.loads(body, object_pairs_hook=look)
    return found[0] if found else None


def _find_nul(value: object) -> FieldError | None:
    pending: list[tuple[object, tuple[object, ...]]] = [(value, ())]
    while pending:
        one, path = pending.pop()
        if isinstance(one, str):
            if "\x00" in one:
                return FieldError(pointer_to(path), _NUL_DETAIL)
        elif isinstance(one, list):
            pending.extend((each, (*path, index)) for index, each in enumerate(one))
        elif isinstance(one, dict):
            for key, each in one.items():
                if "\x00" in key:
                    return FieldError(pointer_to(path), f"a key {_NUL_DETAIL}")
                pending.append((each, (*path, key)))
    return None
