"""Can a worker take this message at all?

Celery's own consumer trusts what it reads: of 33 malformed messages twelve end the worker, six
vanish and one stays for ever. So every message is looked at before anything is reserved for it.
It costs next to nothing, because the decoded body is kept for the step that needs it anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeGuard

from celery.utils.time import maybe_iso8601, maybe_make_aware

from mainstay.errors import TooLarge
from mainstay.tasks.celery.letters import DELIVERIES

__all__ = [
    "DEPTH_LIMIT",
    "Limits",
    "Surprise",
    "depth_limit_of",
    "depth_of",
    "surprise",
    "undecodable",
]

DEPTH_LIMIT = 64
# Of Celery's own tasks: one that waits for a chord holds its results, each within the next.
COMPOSED_DEPTH_LIMIT = 512
_TEXT_LIMIT = 255
_LONGEST_LIMIT_SECONDS = 86_400
_FURTHEST_ETA = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a message may hold.

    Args:
        body_bytes: The body, as it is stored.
        depth: Lists and tables within one another. About 900 levels jam a worker: the error comes
            after the task was reserved, when its arguments are copied for the child.
        deliveries: How often a message may have been given back unfinished.
    """

    body_bytes: int
    depth: int = DEPTH_LIMIT
    deliveries: int = 5


@dataclass(frozen=True, slots=True)
class Surprise:
    """What is wrong with a message: a reason out of a bounded set, and a detail for people."""

    reason: str
    detail: str = ""


class _Wrong(Exception):
    def __init__(self, what: str, detail: str) -> None:
        self.surprise = Surprise(f"malformed:{what}", detail)


def surprise(message: Any, limits: Limits, now: datetime | None = None) -> Surprise | None:
    """Return what is wrong with *message*, or ``None`` when a worker can take it."""
    try:
        headers = _headers(message.headers)
        if not isinstance(message.body, bytes | str | None):
            # An envelope on Redis may hold anything.
            raise _Wrong("body", "the body must be text or bytes")
        size = len(message.body or b"")
        if size > limits.body_bytes:
            return Surprise("too-large", f"{size} bytes, {limits.body_bytes} are accepted")
        try:
            payload = message.payload
        except Exception as error:  # noqa: BLE001 - decoders of other people raise what they like
            return undecodable(error)
        _body(payload)
        depth = depth_limit_of(headers["task"], limits.depth)
        if _brackets(message.body) > depth and depth_of(payload, depth) is None:
            return Surprise("too-deep", f"more than {depth} levels of lists and tables")
        if _has_expired(headers, now or datetime.now(UTC)):
            return Surprise("expired", f"at {headers['expires']}")
        deliveries = _number(headers, DELIVERIES)
        if deliveries >= limits.deliveries:
            return Surprise("delivery-limit", f"{deliveries} deliveries, and no worker finished it")
    except _Wrong as wrong:
        return wrong.surprise
    return None


def depth_limit_of(name: str, usual: int = DEPTH_LIMIT) -> int:
    """Return how deep the arguments of a task may be nested."""
    return COMPOSED_DEPTH_LIMIT if name.startswith("celery.") else usual


def undecodable(error: BaseException) -> Surprise:
    """Return what is wrong with a message whose decoding ended with *error*."""
    reason = "too-large" if isinstance(error, TooLarge) else f"decode:{type(error).__name__}"
    return Surprise(reason, str(error)[:500])


def _headers(headers: Any) -> Mapping[str, Any]:
    if not isinstance(headers, dict) or "task" not in headers:
        # Task protocol 1 keeps all of it in the body; nobody has sent it by default since 2016.
        raise _Wrong("headers", "no header says which task it is (protocol 2 is needed)")
    for name in ("task", "id"):
        value = headers.get(name)
        if not _is_text(value) or not 0 < len(value) <= _TEXT_LIMIT:
            raise _Wrong(name, f"the header {name!r} must be text of 1 to {_TEXT_LIMIT} characters")
    for name in ("root_id", "parent_id", "group", "shadow"):
        value = headers.get(name)
        if value is not None and not _is_text(value):
            raise _Wrong(name, f"the header {name!r} must be text")
    limits = headers.get("timelimit")
    if limits is not None and not (
        isinstance(limits, list | tuple)
        and len(limits) == 2
        and all(value is None or _is_limit(value) for value in limits)
    ):
        raise _Wrong("timelimit", "the header 'timelimit' must be two numbers of seconds, or null")
    for name in ("retries", "replaced_task_nesting"):
        _number(headers, name)
    stamped = headers.get("stamped_headers")
    if stamped is not None and not (
        isinstance(stamped, list) and all(isinstance(name, str) for name in stamped)
    ):
        raise _Wrong("stamped_headers", "the header 'stamped_headers' must be a list of names")
    if not isinstance(headers.get("stamps"), dict | None):
        raise _Wrong("stamps", "the header 'stamps' must be a table")
    eta = _moment(headers, "eta")
    if eta is not None and eta > datetime.now(UTC) + _FURTHEST_ETA:
        raise _Wrong("eta", f"it is due at {eta.isoformat()}, more than a day ahead")
    _moment(headers, "expires")
    # Where they do not belong, and would count all the same.
    _following(headers, "headers")
    return headers


def _is_text(value: object) -> TypeGuard[str]:
    # Half a surrogate pair comes through JSON, and nothing that a task is noted in can hold it.
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_limit(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 < value <= _LONGEST_LIMIT_SECONDS
    )


def _number(headers: Mapping[str, Any], name: str) -> int:
    value = headers.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise _Wrong(name, f"the header {name!r} must be a whole number")
    return value


def _moment(headers: Mapping[str, Any], name: str) -> datetime | None:
    value = headers.get(name)
    if value is None:
        return None
    try:
        if not isinstance(value, str):
            raise TypeError("not text")
        moment: datetime = maybe_make_aware(maybe_iso8601(value), UTC)
        moment.timestamp()
    except Exception as error:
        raise _Wrong(name, f"the header {name!r} must be a moment in ISO 8601") from error
    return moment


def _has_expired(headers: Mapping[str, Any], now: datetime) -> bool:
    expires = _moment(headers, "expires")
    return expires is not None and expires < now


def _body(payload: Any) -> None:
    if not isinstance(payload, list | tuple) or len(payload) != 3:
        raise _Wrong("body", "the body must be a list of arguments, keyword arguments and options")
    args, kwargs, embed = payload
    if not isinstance(args, list | tuple):
        raise _Wrong("args", "the arguments must be a list")
    if not isinstance(kwargs, dict):
        raise _Wrong("kwargs", "the keyword arguments must be a table")
    if not isinstance(embed, dict | None):
        raise _Wrong("embed", "the options must be a table")
    if embed:
        _following(embed, "embed")


def _following(options: Mapping[str, Any], what: str) -> None:
    # Celery reads it when the task has been done, or has failed: too late to refuse it.
    for name in ("callbacks", "errbacks", "chain", "chord"):
        following = options.get(name)
        if following is None:
            continue
        signatures = [following] if name == "chord" else following
        if not isinstance(signatures, list) or not all(map(_is_signature, signatures)):
            raise _Wrong(what, f"what follows on the task ({name!r}) must be signatures")


def _is_signature(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _is_text(value.get("task"))
        and isinstance(value.get("args"), list | None)
        and isinstance(value.get("kwargs"), dict | None)
        and isinstance(value.get("options"), dict)
    )


def _brackets(body: Any) -> int:
    # An upper bound of the depth that one pass of C code finds.
    if isinstance(body, bytes):
        return body.count(b"[") + body.count(b"{")
    text = body if isinstance(body, str) else ""
    return text.count("[") + text.count("{")


def depth_of(value: Any, limit: int = DEPTH_LIMIT) -> int | None:
    """Return how deep lists and tables are nested in *value*; ``None`` when deeper than *limit*."""
    level, depth = [value], 0
    while True:
        below: list[Any] = []
        nested = False
        for each in level:
            if isinstance(each, dict):
                nested = True
                below.extend(each.values())
            elif isinstance(each, list | tuple):
                nested = True
                below.extend(each)
        if not nested:
            return depth
        depth += 1
        if depth > limit:
            return None
        level = below
