"""Read a request's headers once, and only those that are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar, overload

from mainstay import context as contexts
from mainstay.errors import MainstayError, Malformed
from mainstay.http.problems import HeadersTooLarge
from mainstay.http.wire import RawHeaders

__all__ = ["LIMIT_BYTES", "LIMIT_COUNT", "Headers"]

LIMIT_BYTES = 32_768
LIMIT_COUNT = 100

T = TypeVar("T")

# Two of these in one request are an attempt to be understood in two ways.
_ONCE = (b"authorization", b"content-length", b"content-type", b"host", b"idempotency-key")
_LISTS = (b"x-forwarded-for", b"x-forwarded-proto")
_EVENT_STREAM = b"text/event-stream"


class Headers(Mapping[str, str]):
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
        size = sum(map(len, found.values()))
        if self._has_twins:
            size = sum(len(value) for _, value in raw)
            names = [name for name, _ in raw]
            for name in _ONCE:
                if names.count(name) > 1:
                    return Malformed(f"the request has two {name.decode()} headers: send one")
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
    def has_token(self) -> bool:
        """Does the request show who asks?"""
        return b"authorization" in self._found or _TOKEN in self._found

    def bound_timeout(self, seconds: float, text: bytes) -> None:
        """Say how long we wait, unless the caller waits for less: it may shorten that only.

        An event stream lives longer than any deadline of ours: what works on it is told of none.
        """
        found = self._found
        asked = found.get(_TIMEOUT)
        if asked is not None:
            try:
                if 0.0 <= float(asked) < seconds:
                    return
            except ValueError:
                pass
        if _EVENT_STREAM in found.get(b"accept", b""):
            found.pop(_TIMEOUT, None)
        else:
            found[_TIMEOUT] = text

    @overload
    def get(self, key: str, /) -> str | None: ...
    @overload
    def get(self, key: str, default: str | T, /) -> str | T: ...
    def get(self, key: str, default: object = None, /) -> object:
        value = self._found.get(_NAMES.get(key) or key.encode("latin-1"))
        return default if value is None else value.decode("latin-1")

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and (_NAMES.get(key) or key.encode("latin-1")) in self._found

    def __getitem__(self, key: str) -> str:
        return self._found[key.encode("latin-1")].decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._found)

    def __len__(self) -> int:
        return len(self._found)


_TOKEN = contexts.PRINCIPAL_TOKEN.encode()
_TIMEOUT = contexts.TIMEOUT_SECONDS.encode()
_NAMES = {
    name: name.encode()
    for name in (
        contexts.CORRELATION_ID,
        contexts.REQUEST_ID,
        contexts.TRACEPARENT,
        contexts.TRACESTATE,
        contexts.TIMEOUT_SECONDS,
        contexts.PRINCIPAL_TOKEN,
        "authorization",
        "content-length",
        "content-type",
        "x-forwarded-for",
        "x-forwarded-proto",
    )
}
