"""How are frames read and written, many at once?

The library beneath reads a frame in three system calls and writes each in one. A reply is three
frames, so in a burst the calls into the system would be most of the work. Here a burst is read
with one call and written with one, through the hooks that the library has for it.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from struct import Struct
from typing import Any

import amqp
from amqp.method_framing import frame_writer

from mainstay.resources.amqp import connect
from mainstay.rpc.amqp.messages import END, Message, Reader
from mainstay.rpc.bytestream import ByteStream
from mainstay.rpc.line import CONNECT_SECONDS, Wake

__all__ = ["Frames"]

TICK_SECONDS = 1.0
_HEADER = Struct(">BHI")

ANSWER_SECONDS = 10.0
"""How long the broker may take to answer what is asked while a connection is set up: a quorum
queue has no leader for some seconds after its node was killed."""


class Frames:
    """An open connection, and the bytes on their way in and out of it.

    One thread takes its turns; others may :meth:`send`, where `is_shared` says so.

    Args:
        url: The broker.
        wake: What ends a turn early.
        on_blocked: Told when the broker raises or ends an alarm, during which it takes nothing.

    Raises:
        OSError, amqp.AMQPError: It cannot be reached, or refuses.
    """

    def __init__(self, url: str, wake: Wake, *, on_blocked: Callable[[bool], object]) -> None:
        self._wake = wake
        self._in = b""
        self._at = 0
        self._readers: dict[int, Reader] = {}
        self._socket: socket.socket
        self._write: Callable[[bytes], object]
        self.connection: Any = connect(
            url,
            connect_timeout_seconds=CONNECT_SECONDS,
            frame_writer=self._writer,
            on_blocked=lambda _reason: on_blocked(True),
            on_unblocked=lambda: on_blocked(False),
        )
        # What the library itself writes and waits for goes through here from now on, too.
        self._stream = ByteStream(self._socket)
        self._write = self._stream.send
        self.connection.blocking_read = self.read_one
        self.frame_bytes: int = self.connection.frame_max
        self._next_tick = time.monotonic() + TICK_SECONDS
        self._was_full = False
        self._poll = select.poll()
        self._poll.register(wake, select.POLLIN)
        self._poll.register(self._stream, select.POLLIN)

    @property
    def is_shared(self) -> bool:
        """May other threads send than the one that takes the turns?"""
        return self._stream.is_shared

    @property
    def wants_write(self) -> bool:
        """Is something left that the socket did not take?"""
        return self._stream.wants_write

    def channel(
        self,
        *,
        delivered: Callable[[Message], object] | None = None,
        acknowledged: Callable[[int, bool], object] | None = None,
    ) -> Any:
        """Open a channel.

        Args:
            delivered: Given each message of its consumers, past the library.
            acknowledged: Given each confirm, likewise.
        """
        channel = amqp.Channel(self.connection, auto_decode=False)
        channel.open()
        if delivered is not None:
            self._readers[channel.channel_id] = Reader(delivered, acknowledged)
        return channel

    def send(self, frames: bytes) -> None:
        """Send *frames*, whole ones; what the socket does not take goes out with the next turn.

        Raises:
            OSError: The connection is gone.
        """
        self._write(frames)
        self.connection.bytes_sent += 1  # what the library knows traffic by

    def write(self, frame: memoryview) -> None:
        """Send a frame; for the library."""
        self._write(bytes(frame))

    def turn(self) -> bool:
        """Wait until something comes, or is to be sent, and handle what came; a second at most.

        Returns:
            Is it time to look around, as it is once a second?

        Raises:
            OSError, amqp.AMQPError: The connection is gone.
        """
        self.handle()  # what was read together with an answer that was waited for
        if self.wants_write or self._was_full:
            self._was_full = self.wants_write
            events = select.POLLIN | (select.POLLOUT if self._was_full else 0)
            self._poll.modify(self._stream, events)
        for ready, event in self._poll.poll(TICK_SECONDS * 1000):
            if ready == self._wake.fileno():
                self._wake.clear()
            else:
                if event & select.POLLOUT:
                    self._stream.flush()
                if event & ~select.POLLOUT:
                    self._receive()
                    self.handle()
        now = time.monotonic()
        if now < self._next_tick:
            return False
        self._next_tick = now + TICK_SECONDS
        self.connection.heartbeat_tick()
        self._stream.flush()  # gives up on a broker that takes nothing any more
        return True

    def handle(self) -> None:
        """Handle every frame that was read."""
        while (frame := self._next()) is not None:
            self._handle(frame)

    def read_one(self, timeout: float | None = None) -> Any:
        """Wait for one frame and handle it; for the library.

        Raises:
            TimeoutError: None came in time.
        """
        until = time.monotonic() + (ANSWER_SECONDS if timeout is None else timeout)
        poll = select.poll()
        while (frame := self._next()) is None:
            poll.register(self._stream, select.POLLIN | (select.POLLOUT if self.wants_write else 0))
            if not poll.poll(max(until - time.monotonic(), 0.0) * 1000):
                raise TimeoutError("RabbitMQ did not answer in time")
            self._stream.flush()
            self._receive()
        return self._handle(frame)

    def close(self) -> None:
        """Say goodbye if the broker listens, and let go."""
        try:
            self.connection.close()
        except (OSError, amqp.AMQPError):
            self.drop()

    def drop(self) -> None:
        """Let go without a farewell: a broker that hangs would not answer it."""
        # The library stumbles over a connection that it has half let go of itself.
        with suppress(OSError, AttributeError):
            self.connection.collect()

    def _writer(self, connection: Any, transport: Any) -> Any:
        self._socket = transport.sock
        self._write = transport.sock.sendall
        return frame_writer(connection, self)

    def _receive(self) -> None:
        data = self._stream.receive()
        if data:
            self._in = self._in[self._at :] + data if self._at < len(self._in) else data
            self._at = 0
            self.connection.bytes_recv += 1

    def _handle(self, frame: tuple[int, int, bytes]) -> Any:
        kind, channel, payload = frame
        reader = self._readers.get(channel)
        if reader is not None and reader.takes(kind, payload):
            return True
        return self.connection.on_inbound_frame(frame)

    def _next(self) -> tuple[int, int, bytes] | None:
        data, at = self._in, self._at
        if len(data) - at < _HEADER.size:
            return None
        kind, channel, size = _HEADER.unpack_from(data, at)
        begin = at + _HEADER.size
        end = begin + size
        if len(data) <= end:
            return None
        if data[end] != END:
            raise amqp.UnexpectedFrame("a frame of RabbitMQ does not end where it should")
        self._at = end + 1
        return kind, channel, data[begin:end]
