"""Read the body of a WSGI request: counted, looked at, and for as long as the request may take.

Under `mainstay run` all of it has come (see `bridge.py`). Under other servers the time is looked at
between two pieces: a read of `wsgi.input` cannot be given up, so a client that sends nothing keeps
a thread for as long as its server allows. A proxy that buffers bodies, as nginx does, lets none of
that through.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import IO

from mainstay.errors import MainstayError, Malformed
from mainstay.http import bodies

__all__ = ["Body"]

_PIECE_BYTES = 65_536


class Body(io.RawIOBase):
    """What stands in the place of `wsgi.input`.

    Args:
        stream: The server's own.
        announced: The value of `Content-Length`, if there is one.
        content_type: JSON and forms are read whole, and looked at.
        is_keyed: It is read whole too, and kept: :meth:`as_received` is asked for.
        limit_bytes: Asked with the first read, when the route is known.
        ends_at: Until when to wait, on the monotonic clock.
        stop: Told what is wrong with the body before it is raised, because an application may
            make something else of it.
    """

    def __init__(
        self,
        stream: IO[bytes],
        *,
        announced: str,
        content_type: str,
        is_keyed: bool,
        limit_bytes: Callable[[], int],
        ends_at: float,
        stop: Callable[[MainstayError], None],
    ) -> None:
        self.stream = stream
        self._announced = announced
        self._content_type = content_type
        self._is_keyed = is_keyed
        self._ask_limit = limit_bytes
        self._ends_at = ends_at
        self._stop = stop
        self._limit = 0
        self._left: int | None = None
        self._received = 0
        self._is_complete = False
        self._whole: IO[bytes] | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # a writable buffer
        piece = self.read(len(view))
        view[: len(piece)] = piece
        return len(piece)

    def readall(self) -> bytes:
        return self.read()

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            if not self._limit:
                self._begin()
            if self._whole is not None:
                return self._whole.read(-1 if size is None else size)
            if size is None or size < 0:
                return self._rest()
            return self._next(size)
        except MainstayError as error:
            self._stop(error)
            raise

    def as_received(self) -> bytes:
        """Return all of the body, whoever has read it; who reads it goes on where it was."""
        self.read(0)
        if self._whole is None:
            raise RuntimeError("this body is not kept: its request has no Idempotency-Key")
        at = self._whole.tell()
        self._whole.seek(0)
        body = self._whole.read()
        self._whole.seek(at)
        return body

    def _begin(self) -> None:
        self._limit = self._ask_limit()
        announced = self._announced
        if announced:
            # Refused before a byte of it is read.
            if not announced.isdecimal() or int(announced) > self._limit:
                raise bodies.too_large(self._limit)
            self._left = int(announced)
        check = bodies.check_of(self._content_type)
        if check is not None or self._is_keyed:
            whole = self._rest()
            if whole and check is not None:
                check(whole)
            self._whole = io.BytesIO(whole)

    def _rest(self) -> bytes:
        pieces = []
        while piece := self._next(_PIECE_BYTES):
            pieces.append(piece)
        return b"".join(pieces)

    def _next(self, size: int) -> bytes:
        """Return up to *size* bytes; none when the body has ended."""
        if self._left is not None:
            size = min(size, self._left)
        if self._is_complete or not size:
            return b""
        try:
            piece = self.stream.read(size)
        except Exception as error:  # whatever a server raises of a body that it cannot read
            raise Malformed("the body cannot be read: the connection broke") from error
        if time.monotonic() > self._ends_at:
            raise bodies.too_late()
        self._received += len(piece)
        if self._received > self._limit:
            raise bodies.too_large(self._limit)
        if self._left is not None:
            self._left -= len(piece)
        self._is_complete = not piece
        if self._is_complete and self._left:
            raise bodies.cut_short()
        return piece
