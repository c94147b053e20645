"""Read a request's headers from its WSGI environ, and only those that are asked for.

What `headers.py` is for ASGI. A WSGI server has joined what came twice by commas, so two headers
that a request may have once alone are told by a comma where none can stand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mainstay import context as contexts
from mainstay.context import Context
from mainstay.errors import MainstayError, Malformed
from mainstay.http.exchange import Seen
from mainstay.http.headers import LIMIT_BYTES, LIMIT_COUNT
from mainstay.http.problems import HeadersTooLarge

__all__ = ["COUNT", "Environ", "Headers", "is_forwarded"]

Environ = dict[str, Any]  # PEP 3333 asks for one, and for no other mapping

COUNT = "mainstay.headers"
"""The key of an environ whose server has counted the headers that came."""

_HEADER = "HTTP_"
_UNPREFIXED = ("content-type", "content-length")


class Headers(Seen):
    """Headers by lower-case name.

    Args:
        environ: As the server made it, before anything is put into it.
    """

    __slots__ = ("_environ",)

    def __init__(self, environ: Environ) -> None:
        self._environ = environ

    @property
    def fault(self) -> MainstayError | None:
        """What is wrong with the headers as a whole, if anything is."""
        environ = self._environ
        count = size = 0
        for key in environ:
            if key[:5] == _HEADER:
                count += 1
                size += len(environ[key])
        count = environ.get(COUNT, count)
        if size > LIMIT_BYTES or count > LIMIT_COUNT:
            return HeadersTooLarge(
                f"the request has more than {LIMIT_COUNT} headers, or more than {LIMIT_BYTES} "
                "bytes in them: send less"
            )
        if "," in environ.get("HTTP_HOST", ""):
            return _twice("host")
        token = environ.get("HTTP_AUTHORIZATION")
        if token is not None and "," in token and token[:7].lower() == "bearer ":
            return _twice("authorization")
        if "HTTP_TRANSFER_ENCODING" in environ and environ.get("CONTENT_LENGTH"):
            return Malformed(
                "the request has both Content-Length and Transfer-Encoding: send one of them"
            )
        return None

    @property
    def is_forwarded(self) -> bool:
        return is_forwarded(self._environ)

    def context(self, limit_seconds: float | None) -> Context:
        get = self._environ.get
        return Context.read(
            get(_CORRELATION_ID) or get(_REQUEST_ID),
            get(_TRACEPARENT),
            get(_TRACESTATE),
            get(_TIMEOUT),
            limit_seconds=limit_seconds,
            is_endless="text/event-stream" in get("HTTP_ACCEPT", ""),
        )

    @property
    def has_host(self) -> bool:
        return bool(self._environ.get("HTTP_HOST"))

    @property
    def has_token(self) -> bool:
        return "HTTP_AUTHORIZATION" in self._environ or _TOKEN in self._environ

    def __getitem__(self, key: str) -> str:
        value: str = self._environ[_key_of(key)]
        if not value and key in _UNPREFIXED:  # some servers write one that did not come
            raise KeyError(key)
        return value

    def __iter__(self) -> Iterator[str]:
        for key in self._environ:
            if key.startswith(_HEADER):
                yield key[5:].replace("_", "-").lower()
        yield from (name for name in _UNPREFIXED if self._environ.get(_key_of(name)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def is_forwarded(environ: Environ) -> bool:
    """Does a proxy, or somebody who says so, tell of a client behind it?"""
    return "HTTP_X_FORWARDED_FOR" in environ or "HTTP_X_FORWARDED_PROTO" in environ


def _key_of(name: str) -> str:
    key = name.upper().replace("-", "_")
    return key if name in _UNPREFIXED else f"{_HEADER}{key}"


def _twice(name: str) -> Malformed:
    return Malformed(f"the request has two {name} headers: send one")


_TOKEN = _key_of(contexts.PRINCIPAL_TOKEN)
_CORRELATION_ID = _key_of(contexts.CORRELATION_ID)
_REQUEST_ID = _key_of(contexts.REQUEST_ID)
_TRACEPARENT = _key_of(contexts.TRACEPARENT)
_TRACESTATE = _key_of(contexts.TRACESTATE)
_TIMEOUT = _key_of(contexts.TIMEOUT_SECONDS)
