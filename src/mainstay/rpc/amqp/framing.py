"""How are frames read and written, many at once?

The library beneath reads a frame in three system calls and writes each in one. A reply is three
frames, so in a burst the calls into the system would be most of the work. Here a burst is read
with one call and written with one, through the hooks that the library has for it.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from struct import unpack_from
from typing import Any

import amqp
from amqp.method_framing import frame_writer

from mainstay.resources.amqp import connect
from mainstay.rpc.line import CONNECT_SECONDS

__all__ = ["Frames"]

_CHUNK = 65_536
_HEADER, _END = 7, 0xCE

STALL_SECONDS = 2.0
"""A broker that takes nothing for so long, with all buffers full, is given up."""

ANSWER_SECONDS = 10.0
"""How long the broker may take to answer what is asked while a connection is set up: a quorum
queue has no leader for some seconds after its node was killed."""


class Frames:
    """An open connection, and the bytes on their way in and out of it.

    Args:
        url: The broker.
        on_blocked: Told when the broker raises or ends an alarm, during which it takes nothing.

    Raises:
        OSError, amqp.AMQPError: It cannot be reached, or refuses.
    """

    def __init__(self, url: str, *, on_blocked: Callable[[bool], object]) -> None:
        self._out: list[bytes] = []
        self._in = bytearray()
        self._is_held = False
        self._socket: socket.socket
        self.connection: Any = connect(
            url,
            connect_timeout_seconds=CONNECT_SECONDS,
            frame_writer=self._writer,
            on_blocked=lambda _reason: on_blocked(True),
            on_unblocked=lambda: on_blocked(False),
        )
        self._socket.settimeout(STALL_SECONDS)
        # What the library itself waits for comes through here, too.
        self.connection.blocking_read = self.read_one

    def fileno(self) -> int:
        return self._socket.fileno()

    def channel(self) -> Any:
        """Open a channel; bodies come from it as bytes, whatever the sender calls them."""
        channel = amqp.Channel(self.connection, auto_decode=False)
        channel.open()
        return channel

    def hold(self) -> None:
        """Pile up what is written from now on, until :meth:`flush`."""
        self._is_held = True

    def flush(self) -> None:
        """Send what is piled up, and everything from now on at once."""
        self._is_held = False
        if self._out:
            data, self._out = b"".join(self._out), []
            self._socket.sendall(data)

    def write(self, frame: memoryview) -> None:
        """Take a frame; for the library."""
        if self._is_held:
            self._out.append(bytes(frame))
        else:
            self._socket.sendall(frame)

    def read(self) -> None:
        """Handle every frame that is here; called when the socket is readable."""
        self._receive()
        self.handle()
        # A TLS socket may hold what poll() does not know of.
        while isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            self._receive()
            self.handle()

    def handle(self) -> None:
        """Handle what was read together with an answer that was waited for.

        To be called before each wait: poll() knows nothing of it.
        """
        while (frame := self._next()) is not None:
            self.connection.on_inbound_frame(frame)

    def read_one(self, timeout: float | None = None) -> Any:
        """Wait for one frame and handle it; for the library.

        Raises:
            TimeoutError: None came in time.
        """
        self.flush()
        while (frame := self._next()) is None:
            self._socket.settimeout(ANSWER_SECONDS if timeout is None else timeout)
            try:
                self._receive()
            finally:
                self._socket.settimeout(STALL_SECONDS)
        return self.connection.on_inbound_frame(frame)

    def close(self) -> None:
        """Say goodbye if the broker listens, and let go."""
        try:
            self.flush()
            self.connection.close()
        except (OSError, amqp.AMQPError):
            self.drop()

    def drop(self) -> None:
        """Let go without a farewell: a broker that hangs would not answer it."""
        self._out.clear()
        # The library stumbles over a connection that it has half let go of itself.
        with suppress(OSError, AttributeError):
            self.connection.collect()

    def _writer(self, connection: Any, transport: Any) -> Any:
        self._socket = transport.sock
        return frame_writer(connection, self)

    def _receive(self) -> None:
        data = self._socket.recv(_CHUNK)
        if not data:
            raise ConnectionResetError("RabbitMQ closed the connection")
        self._in += data

    def _next(self) -> tuple[int, int, bytes] | None:
        data = self._in
        if len(data) < _HEADER:
            return None
        kind, channel, size = unpack_from(">BHI", data)
        end = _HEADER + size
        if len(data) <= end:
            return None
        if data[end] != _END:
            raise amqp.UnexpectedFrame("a frame of RabbitMQ does not end where it should")
        payload = bytes(data[_HEADER:end])
        del data[: end + 1]
        return kind, channel, payload
