"""What travels in a call: a request, and an answer that is a result or a typed error.

Both are JSON. A request's body is the caller's data as it is; everything else about it travels
beside it, as the wire's own headers. An answer's body is an envelope, the same in every room::

    {"result": …}
    {"error": {"type": "Invalid", "detail": "…", "errors": [{"pointer": "/amount", "detail": "…"}]}}

An error of the *retry* and *refuse* families comes back as its own class; everything else, the
author's own exceptions included, as `RemoteFailure` with the name of its class.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, Final

import orjson
from pydantic import BaseModel

from mainstay import errors
from mainstay.errors import (
    Bury,
    FieldError,
    Invalid,
    LimitExceeded,
    MainstayError,
    Malformed,
    Refuse,
    RemoteFailure,
    Retry,
    TooLarge,
    UnderWay,
)
from mainstay.texts import storable

__all__ = [
    "ANSWER_FACTOR",
    "DEPTH_LIMIT",
    "FUNCTION",
    "TIMEOUT_LIMIT_SECONDS",
    "Unreadable",
    "check_names",
    "checked_timeout",
    "decode_answer",
    "decode_request",
    "encode_error",
    "encode_request",
    "encode_result",
    "encode_unforeseen",
]

FUNCTION: Final = "x-function"
"""The header that names the function, where a server offers more than one."""

DEPTH_LIMIT: Final = 64
"""Deeper JSON has no use that we know, and has stopped more than one server."""

TIMEOUT_LIMIT_SECONDS: Final = 31_536_000.0
"""What the setting may be at most, too; RabbitMQ closes the channel that is sent over ten years."""

ANSWER_FACTOR: Final = 4
"""An answer may be this many times the limit of a request: many hold what was asked, and more."""


class Unreadable(Malformed):
    """A request that is no request; ``reason`` is the word under which it is buried."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def check_names(queue: object, function: object, id: object) -> None:
    """Check what names a call, which is in spans and metrics too; an id may be missing.

    Raises:
        Invalid: One is no text that can be sent, or the queue is empty.
    """
    for what, name in (("queue", queue), ("function", function), ("id", "" if id is None else id)):
        if not isinstance(name, str):
            raise Invalid(f"the {what} of a call must be text, not {type(name).__name__}")
        if storable(name) != name:
            raise Invalid(f"the {what} of a call cannot be sent: {storable(name)!r:.100}")
    if not queue:
        raise Invalid("the queue of a call must be named: it is empty")


def checked_timeout(seconds: object) -> float:
    """Return *seconds*, which a caller gave, as a number that every wire and every wait can hold.

    Raises:
        Invalid: It is no number, or larger than `TIMEOUT_LIMIT_SECONDS`.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, Real):
        kind = type(seconds).__name__
        raise Invalid(f"timeout_seconds must be a number of seconds, not {kind}")
    try:
        number = float(seconds)
    except OverflowError:
        number = math.inf
    if not number <= TIMEOUT_LIMIT_SECONDS:  # nan among them
        raise Invalid(
            f"timeout_seconds must be at most {TIMEOUT_LIMIT_SECONDS:.0f} (a year), not {number:g}"
        )
    return number


def encode_request(data: Any, *, limit_bytes: int) -> bytes:
    """Return the body of a request.

    Raises:
        Invalid: JSON cannot hold *data*.
        TooLarge: The body is larger than *limit_bytes*.
    """
    try:
        body = _dumps(data)
    except ValueError as error:
        raise Invalid(
            f"the data cannot be sent: {error}", errors=[FieldError("", str(error))]
        ) from error
    if len(body) > limit_bytes:
        raise TooLarge(
            f"the call holds {len(body)} bytes and may hold {limit_bytes} (body_limit_bytes): "
            "send a reference to the data instead"
        )
    return body


def decode_request(body: bytes, *, limit_bytes: int) -> Any:
    """Return the data of a request.

    Raises:
        Unreadable: It is none.
    """
    if len(body) > limit_bytes:
        raise Unreadable(
            "refused:TooLarge", f"the call holds {len(body)} bytes and may hold {limit_bytes}"
        )
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Unreadable("decode:JSON", f"the call's body is no JSON: {error}") from error
    if _is_too_deep(body, data):
        raise Unreadable("refused:TooDeep", f"the call is nested deeper than {DEPTH_LIMIT} levels")
    return data


def encode_result(result: Any, *, limit_bytes: int) -> bytes:
    """Return the answer that carries *result*.

    Raises:
        Bury: JSON cannot hold it, or it is too large.
    """
    try:
        body = _dumps(result)
    except ValueError as error:
        raise Bury(f"the result cannot be sent: {error}") from error
    if len(body) > ANSWER_FACTOR * limit_bytes:
        raise Bury(
            f"the result holds {len(body)} bytes and may hold {ANSWER_FACTOR * limit_bytes}: "
            "answer with a reference to it instead"
        )
    return b'{"result":' + body + b"}"


def encode_error(error: BaseException) -> bytes:
    """Return the answer that tells the caller of *error*.

    What an unforeseen exception says may hold internals, so only its kind travels; the whole of
    it is in the server's log and with the dead letter.
    """
    try:
        return orjson.dumps({"error": _shown(error)})
    except Exception:  # noqa: BLE001 - an author's own error may hold anything, and raise when asked
        return encode_unforeseen(error)


def encode_unforeseen(error: BaseException) -> bytes:
    """Return the answer that names the kind of *error* and tells nothing else of it."""
    return orjson.dumps({"error": _unforeseen(error)})


def decode_answer(body: bytes, *, limit_bytes: int) -> Any:
    """Return the result that an answer carries, or raise its error.

    Raises:
        RemoteFailure: The function failed, or the answer cannot be read.
        Refuse, Retry: What the server raised, as its own class.
    """
    if len(body) > ANSWER_FACTOR * limit_bytes + len(b'{"result":}'):
        raise RemoteFailure(
            "TooLarge",
            f"the answer holds {len(body)} bytes and may hold {ANSWER_FACTOR * limit_bytes}",
        )
    try:
        answer = orjson.loads(body)
        if "result" in answer:
            return answer["result"]
        said = answer["error"]
        error = _rebuilt(said["type"], said["detail"], said)
    except (ValueError, TypeError, KeyError, AttributeError) as broken:
        raise RemoteFailure("Malformed", "the answer is no answer of a call server") from broken
    raise error


def _dumps(data: Any) -> bytes:
    try:
        body = orjson.dumps(data, default=_plain)
    except (TypeError, RecursionError) as error:  # orjson's own error is a TypeError
        raise ValueError(str(error)) from error
    # orjson writes null for what JSON has no number for; data would be changed on the way.
    if b"null" in body and _has_no_number(data):
        raise ValueError("JSON has no number for nan and infinity")
    return body


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"JSON cannot hold a {type(value).__name__}")


def _has_no_number(data: Any) -> bool:
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, float):
            if not math.isfinite(value):
                return True
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)
    return False


def _is_too_deep(body: bytes, data: Any) -> bool:
    # Counting brackets settles nearly every body without walking it.
    if body.count(b"[") + body.count(b"{") <= DEPTH_LIMIT:
        return False
    level = [data] if isinstance(data, (dict, list)) else []
    for _ in range(DEPTH_LIMIT):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
    return bool(level)


# What a server's own calls met says nothing about the call that it was answering.
_OTHER_SIDES_WIRE = tuple(
    getattr(errors, name) for name in ("NotConnected", "Disconnected", "Unconfirmed", "NoRoute")
)
_TOLD: dict[str, type[MainstayError]] = {
    name: kind
    for name in errors.__all__
    if isinstance(kind := getattr(errors, name), type)
    and issubclass(kind, (Retry, Refuse))
    and kind not in _OTHER_SIDES_WIRE
}


def _shown(error: BaseException) -> dict[str, object]:
    if isinstance(error, RemoteFailure):
        return {"type": storable(error.type), "detail": storable(error.detail)}
    if isinstance(error, Bury):
        return {"type": storable(type(error).__name__), "detail": storable(error.detail)}
    if not isinstance(error, (Retry, Refuse)):
        return _unforeseen(error)
    kind = next(base for base in type(error).__mro__ if _TOLD.get(base.__name__) is base)
    shown: dict[str, object] = {"type": kind.__name__, "detail": storable(error.detail)}
    if isinstance(error, Invalid):
        shown["errors"] = [
            {"pointer": storable(e.pointer), "detail": storable(e.detail)} for e in error.errors
        ]
    if isinstance(error, (Retry, UnderWay)):
        shown["retry_after_seconds"] = error.retry_after_seconds
    if isinstance(error, LimitExceeded):
        shown["limit"], shown["window_seconds"] = error.limit, error.window_seconds
    return shown


def _unforeseen(error: BaseException) -> dict[str, object]:
    return {
        "type": storable(type(error).__name__),
        "detail": "the call failed in a way nobody foresaw: the server's log and its dead letters "
        "say more",
    }


def _rebuilt(name: str, detail: str, said: dict[str, Any]) -> MainstayError:
    kind = _TOLD.get(name)
    if kind is None:
        return RemoteFailure(str(name), str(detail))
    if issubclass(kind, Invalid):
        fields = [FieldError(e["pointer"], e["detail"]) for e in said.get("errors", ())]
        return kind(detail, errors=fields)
    if issubclass(kind, LimitExceeded):
        return kind(
            detail,
            retry_after_seconds=said["retry_after_seconds"],
            limit=said["limit"],
            window_seconds=said["window_seconds"],
        )
    if issubclass(kind, (Retry, UnderWay)):
        after = said.get("retry_after_seconds")
        return kind(detail) if after is None else kind(detail, retry_after_seconds=after)
    return kind(detail)
