"""Ask an HTTP server, over connections that stay open, and look at every answer.

One thread and no library: what asks must take less of the processor than what answers, or servers
wait for it.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from itertools import repeat

from benchmarks.programs import LaneFailed, Program
from benchmarks.row import Sample

__all__ = ["CONNECTIONS", "HOST", "HttpServer", "always", "request"]

CONNECTIONS = 16
HOST = "127.0.0.1"

_PATIENCE_SECONDS = 60.0
_READ_BYTES = 262_144


def request(
    path: str, *, method: str = "GET", headers: Sequence[str] = (), body: bytes = b""
) -> bytes:
    """Return the bytes of a request as an HTTP client sends it."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "host: 127.0.0.1",
        "user-agent: benchmarks",
        "accept: */*",
        *headers,
    ]
    if body or method != "GET":
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def always(request: bytes) -> Iterator[bytes]:
    """Ask the same again and again; a row whose requests differ has an iterator of its own."""
    return repeat(request)


class HttpServer:
    """A server of a lane, and how it is asked.

    Args:
        program: Whose CPU is measured.
        port: Where it answers.
        asked: What to ask, without end.
        status: What every answer's status must be.
        holds: What every answer must hold.
        also: Other processes whose CPU counts.
    """

    def __init__(
        self,
        program: Program,
        port: int,
        asked: Iterator[bytes],
        *,
        status: int = 200,
        holds: bytes = b"",
        also: Sequence[Program] = (),
    ) -> None:
        self.program = program
        self.port = port
        self._asked = asked
        self._status = b"HTTP/1.1 %d " % status
        self._holds = holds
        self._measured = (program, *also)

    def round(self, units: int) -> Sample:
        """Ask *units* times, and return when all is answered.

        Over new connections: a server closes those that were idle while other lanes had their turn.
        """
        connections = [_Connection(self.port) for _ in range(min(CONNECTIONS, units))]
        try:
            before = sum(one.cpu_seconds() for one in self._measured)
            started = time.perf_counter()
            self._ask(units, connections)
            wall = time.perf_counter() - started
            taken = sum(one.cpu_seconds() for one in self._measured) - before
        finally:
            for connection in connections:
                connection.socket.close()
        return Sample(units, taken, wall)

    def _ask(self, units: int, connections: Sequence[_Connection]) -> None:
        with selectors.DefaultSelector() as selector:
            left = units - len(connections)
            for connection in connections:
                selector.register(connection.socket, selectors.EVENT_READ, connection)
                connection.send(next(self._asked))
            waiting = len(connections)
            while waiting:
                ready = selector.select(_PATIENCE_SECONDS)
                if not ready:
                    self.program.check()
                    raise LaneFailed(f"no answer within {_PATIENCE_SECONDS:g} s")
                for key, _ in ready:
                    connection = key.data
                    answer = connection.receive()
                    if answer is None:
                        continue
                    if not answer.startswith(self._status) or self._holds not in answer:
                        raise LaneFailed(f"a wrong answer: {answer[:2000]!r}")
                    if left > 0:
                        left -= 1
                        connection.send(next(self._asked))
                    else:
                        waiting -= 1
                        selector.unregister(connection.socket)


class _Connection:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=_PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def send(self, request: bytes) -> None:
        self.socket.sendall(request)

    def receive(self) -> bytes | None:
        """Return an answer, once it is whole."""
        piece = self.socket.recv(_READ_BYTES)
        if not piece:
            raise LaneFailed(f"the connection was closed after {self._received[:2000]!r}")
        self._received = received = self._received + piece if self._received else piece
        head, end, body = received.partition(b"\r\n\r\n")
        if not end or len(body) < _length(head):
            return None
        self._received = b""
        return received


def _length(head: bytes) -> int:
    at = head.lower().find(b"\r\ncontent-length:")
    if at < 0:
        raise LaneFailed(f"an answer without its length: {head!r}")
    return int(head[at + 17 :].partition(b"\r\n")[0])
