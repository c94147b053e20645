"""What of a task's result, and of its error, can be told later?

Statuses are JSON and text in UTF-8. A result that is neither must not make work that is done fail,
and an error whose own words are broken must not hide that there was one.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from mainstay.deadletters import reason_of
from mainstay.errors import MainstayError
from mainstay.logs.redaction import Redaction
from mainstay.tasks.values import packed
from mainstay.texts import storable, text_of

__all__ = ["detail_of", "dumps", "error_of", "plain", "result_of", "written"]

_DETAIL_CHARACTERS = 2_000
_REASON_CHARACTERS = 200
# Behind an even number of backslashes; an odd one escapes the last of them, and no NUL.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def result_of(value: Any, *, is_handed_on: bool = False) -> tuple[Any, dict[str, str] | None]:
    """Return what can be kept of the result *value*: itself, or nothing and why.

    Args:
        is_handed_on: The next step is given it, so it is to come back as it was; else an object
            that JSON can only show, such as a dataclass, will do.
    """
    kind = type(value).__name__
    note = None
    try:
        try:
            text = dumps(packed(value))
        except TypeError as error:
            text = dumps(value)
            if is_handed_on:
                detail = f"it returned a {kind} that no step can be given: {_reason(error)}"
                note = {"type": "ResultNotKept", "detail": detail}
        if _NUL.search(text):
            raise ValueError("it has a NUL, which PostgreSQL's JSON has not")
    except Exception as error:  # noqa: BLE001 - an encoder calls what a value brings along
        detail = f"it returned a {kind} that JSON cannot hold: {_reason(error)}: not kept"
        return None, {"type": "ResultNotKept", "detail": detail}
    return value, note


def _reason(error: Exception) -> str:
    return text_of(error)[:_REASON_CHARACTERS] or type(error).__name__


def written(value: Any) -> Any:
    """Return *value*, of which :func:`result_of` says that it can be kept, as it is kept."""
    try:
        return packed(value)
    except TypeError:
        return value  # JSON shows it


def dumps(value: Any) -> bytes:
    """Return *value* as JSON; raises when JSON, or UTF-8, cannot hold it."""
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:  # integers of more than 64 bits
        return json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


def error_of(error: BaseException, redaction: Redaction) -> dict[str, str]:
    """Return *error* as a status shows it: ``{"type", "detail"}``; without secrets."""
    said = error.detail if isinstance(error, MainstayError) else text_of(error)
    detail = plain(redaction.text(said))
    return {"type": reason_of(error).rpartition(":")[2], "detail": detail}


def detail_of(error: BaseException, redaction: Redaction) -> str:
    """Return what *error* says, even when it cannot say it; without secrets."""
    return redaction.text(text_of(error))[:_DETAIL_CHARACTERS]


def plain(text: str) -> str:
    """Return *text* with what a database cannot hold written out: lone surrogates, NUL."""
    return storable(text[:_DETAIL_CHARACTERS]).replace("\x00", "\\x00")
