"""How does a client behave when the network between it and its server does not?"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Self

__all__ = ["FaultProxy"]

_CHUNK_BYTES = 65_536
_CLOSE_WITH_RESET = struct.pack("ii", 1, 0)


class FaultProxy:
    """A TCP proxy on loopback that can be slow, mute, absent, or cut its connections.

    Faults are set while it runs and hold for open and new connections alike. Use it in the event
    loop of the test; the client may live in another thread or process::

        async with FaultProxy("127.0.0.1", server.port) as proxy:
            client = connect("127.0.0.1", proxy.port)
            proxy.stall()

    Args:
        host: Where the server is.
        port: Where the server is.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.server_port = port
        self.port = 0
        self.latency_seconds = 0.0
        """How long each chunk is held back, in each direction."""
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False
        self._resets = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    async def start(self) -> Self:
        """Listen; the first start chooses the port, later ones take it again."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def stall(self) -> None:
        """Hold every byte back; connections stay open and new ones are accepted."""
        self._flows.clear()

    def refuse(self) -> None:
        """Reset each new connection as soon as it is made."""
        self._refuses = True

    def reset(self) -> None:
        """Cut every open connection with a TCP reset."""
        self._resets += 1
        for writer in self._writers:
            _reset(writer)

    def heal(self) -> None:
        """End all faults; what was held back is passed on."""
        self.latency_seconds = 0.0
        self._refuses = False
        self._flows.set()

    async def close(self) -> None:
        """Cut all connections and stop listening. May be called twice."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        self.reset()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await server.wait_closed()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            _reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker: this runs in one
        self._connections.add(task)
        writers, resets = [writer], self._resets
        try:
            there, back = await asyncio.open_connection(self.host, self.server_port)
            writers.append(back)
            if self._resets != resets:
                return  # it was being opened when all were cut
            self._writers.update(writers)
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(self._pass_on(reader, back))
                both_ways.create_task(self._pass_on(there, writer))
        except* (OSError, asyncio.CancelledError):
            pass  # either end is gone, or the proxy is closed
        finally:
            self._connections.discard(task)
            for one in writers:
                self._writers.discard(one)
                _reset(one)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            if self.latency_seconds:
                await asyncio.sleep(self.latency_seconds)
            await self._flows.wait()
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close at once; a peer that is still there gets a reset instead of an orderly end."""
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CLOSE_WITH_RESET)
    writer.transport.abort()
