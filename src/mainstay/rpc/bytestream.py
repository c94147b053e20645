"""How do bytes go in and out of a socket without anybody waiting for it?"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import suppress

__all__ = ["STALL_SECONDS", "ByteStream"]

STALL_SECONDS = 2.0
"""Who takes nothing for so long, with all buffers full, is given up."""

_CHUNK = 65_536
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class ByteStream:
    """A connected socket that one thread polls and reads, and any thread writes to.

    What the socket does not take at once is kept, and goes out with the next :meth:`flush`.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket: socket.socket | None = connected
        self._descriptor = connected.fileno()
        self._tls = connected if isinstance(connected, ssl.SSLSocket) else None
        self._rest = b""
        self._moved_at = 0.0
        self._lock = threading.Lock()

    @property
    def is_shared(self) -> bool:
        """May it be written to from other threads than the one that reads?

        Not with TLS: reading and writing change one session, and nothing keeps them apart.
        """
        return self._tls is None

    @property
    def wants_write(self) -> bool:
        """Is there something left that the socket did not take?"""
        return bool(self._rest)

    def fileno(self) -> int:
        return self._descriptor

    def send(self, data: bytes) -> None:
        """Send *data* after what was sent before.

        Raises:
            OSError: The connection is gone.
        """
        with self._lock:
            if self._rest:
                self._rest += data
            else:
                self._moved_at = 0.0
                self._rest = self._sent(data)

    def flush(self) -> None:
        """Send what was left, as far as the socket takes it.

        Raises:
            OSError: The connection is gone, or has taken nothing for `STALL_SECONDS`.
        """
        with self._lock:
            if self._rest:
                self._rest = self._sent(self._rest)

    def receive(self) -> bytes:
        """Return what is here, nothing included.

        Raises:
            OSError: The connection is gone.
        """
        try:
            data = self._open.recv(_CHUNK)
        except _NOT_NOW:
            return b""
        if not data:
            raise ConnectionResetError("the other side has closed the connection")
        # A TLS session may hold what poll() does not know of.
        while self._tls is not None and self._tls.pending():
            data += self._tls.recv(_CHUNK)
        return data

    def close(self) -> None:
        """Close the socket; who sends from now on hears that it is gone."""
        with self._lock:  # its number must not be another file's while somebody writes to it
            connected, self._socket = self._socket, None
            if connected is not None:
                with suppress(OSError):
                    connected.close()

    @property
    def _open(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionResetError("the connection is closed")
        return self._socket

    def _sent(self, data: bytes) -> bytes:
        """Send what can be sent of *data* now, and return the rest."""
        try:
            sent = self._open.send(data)
        except _NOT_NOW:
            sent = 0
        if sent == len(data):
            return b""
        now = time.monotonic()
        if sent or not self._moved_at:
            self._moved_at = now
        elif now - self._moved_at > STALL_SECONDS:
            raise TimeoutError("the other side takes nothing any more")
        # TLS insists on the same bytes again, with more behind them or not.
        return data[sent:]
