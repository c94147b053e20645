"""Read a request's headers once, and only those that are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar, overload

from mainstay import context as contexts
from mainstay.context import Context
from mainstay.errors import MainstayError, Malformed
from mainstay.http.exchange import Seen
from mainstay.http.problems import HeadersTooLarge
from mainstay.http.wire import RawHeaders

__all__ = ["LIMIT_BYTES", "LIMIT_COUNT", "Headers"]

LIMIT_BYTES = 32_768
LIMIT_COUNT = 100

T = TypeVar("T")

# Two of these in one request are an attempt to be understood in two ways.
_ONCE = (b"authorization", b"content-length", b"content-type", b"host", b"idempotency-key")
_LISTS = (b"x-forwarded-for", b"x-forwarded-proto")


class Headers(Seen):
    """Headers by lower-case name, decoded when they are asked for; of several the last.

    Args:
        raw: As ASGI has them.
    """

    __slots__ = ("_found", "_has_twins", "_raw")

    def __init__(self, raw: RawHeaders) -> None:
        self._raw = raw
        self._found = dict(raw)
        self._has_twins = len(self._found) != len(raw)
        if self._has_twins:
            for name in _LISTS:
                if name in self._found:
                    self._found[name] = b",".join(value for key, value in raw if key == name)

    @property
    def fault(self) -> MainstayError | None:
        """What is wrong with the headers as a whole, if anything is."""
        raw, found = self._raw, self._found
        if self._has_twins:
            size = sum(len(name) + len(value) for name, value in raw)
            names = [name for name, _ in raw]
            for name in _ONCE:
                if names.count(name) > 1:
                    return Malformed(f"the request has two {name.decode()} headers: send one")
        else:  # a third of what adding up the lengths takes
            size = len(b"".join(found)) + len(b"".join(found.values()))
        if size > LIMIT_BYTES or len(raw) > LIMIT_COUNT:
            return HeadersTooLarge(
                f"the request has more than {LIMIT_COUNT} headers, or more than {LIMIT_BYTES} "
                "bytes in them: send less"
            )
        if b"transfer-encoding" in found and b"content-length" in found:
            return Malformed(
                "the request has both Content-Length and Transfer-Encoding: send one of them"
            )
        return None

    @property
    def is_forwarded(self) -> bool:
        return b"x-forwarded-for" in self._found or b"x-forwarded-proto" in self._found

    def context(self, limit_seconds: float | None) -> Context:
        get = self._found.get
        correlation_id = get(_CORRELATION_ID) or get(_REQUEST_ID)
        traceparent, tracestate, timeout = get(_TRACEPARENT), get(_TRACESTATE), get(_TIMEOUT)
        return Context.read(
            None if correlation_id is None else correlation_id.decode("latin-1"),
            None if traceparent is None else traceparent.decode("latin-1"),
            None if tracestate is None else tracestate.decode("latin-1"),
            None if timeout is None else timeout.decode("latin-1"),
            limit_seconds=limit_seconds,
            is_endless=get(b"accept", b"").find(b"text/event-stream") >= 0,
        )

    @property
    def has_host(self) -> bool:
        return b"host" in self._found

    @property
    def has_token(self) -> bool:
        return b"authorization" in self._found or _TOKEN in self._found

    @overload
    def get(self, key: str, /) -> str | None: ...
    @overload
    def get(self, key: str, default: str | T, /) -> str | T: ...
    def get(self, key: str, default: object = None, /) -> object:
        value = self._found.get(key.encode("latin-1"))
        return default if value is None else value.decode("latin-1")

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.encode("latin-1") in self._found

    def __getitem__(self, key: str) -> str:
        return self._found[key.encode("latin-1")].decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._found)

    def __len__(self) -> int:
        return len(self._found)


_CORRELATION_ID = contexts.CORRELATION_ID.encode()
_REQUEST_ID = contexts.REQUEST_ID.encode()
_TRACEPARENT = contexts.TRACEPARENT.encode()
_TRACESTATE = contexts.TRACESTATE.encode()
_TIMEOUT = contexts.TIMEOUT_SECONDS.encode()
_TOKEN = contexts.PRINCIPAL_TOKEN.encode()
