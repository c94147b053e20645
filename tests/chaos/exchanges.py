"""How does a request go over the wire, and its answer come back? By hand: hundreds at a time must
not keep the machine from what they ask, and some of them are no requests at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Answer", "Connections", "cut", "request", "said", "said_at_last"]

JSON = "application/json"
_HOST = "127.0.0.1"
# A client that has heard nothing for so long gives up; longer than any answer takes.
_TIMEOUT_SECONDS = 120.0
# Less than the 5 s after which the server closes a connection that is silent.
_KEPT_SECONDS = 2.0
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered; names of headers are in small letters."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        return json.loads(self.content)


class Connections:
    """Connections to servers of this machine, kept for the next request."""

    def __init__(self) -> None:
        self._kept: dict[int, list[tuple[float, _Stream]]] = {}

    async def exchange(self, port: int, data: bytes) -> Answer:
        """Send *data*, a request, and return its answer.

        Raises:
            OSError, EOFError: There is none.
        """
        stream = self._take(port) or await asyncio.open_connection(_HOST, port)
        reader, writer = stream
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                writer.write(data)
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")[:-2]
                pairs = (line.partition(": ") for line in lines)
                headers = {name.lower(): value for name, _, value in pairs}
                content = await reader.readexactly(int(headers.get("content-length", 0)))
        except BaseException:
            writer.transport.abort()
            raise
        if headers.get("connection") == "close":
            writer.close()
        else:
            self._kept.setdefault(port, []).append((time.monotonic(), stream))
        return Answer(int(first.split()[1]), headers, content)

    def close(self) -> None:
        """Close them all. May be called twice."""
        for kept in self._kept.values():
            while kept:
                kept.pop()[1][1].close()

    def _take(self, port: int) -> _Stream | None:
        """Return the connection that was used last, unless it has been silent for too long."""
        kept = self._kept.get(port, [])
        while kept:
            since, stream = kept.pop()
            if time.monotonic() - since < _KEPT_SECONDS and not stream[0].at_eof():
                return stream
            stream[1].close()
        return None


_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def request(
    path: str,
    content: bytes | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    content_type: str = JSON,
) -> bytes:
    """Return a request as it is on the wire: a POST where there is content."""
    lines = [f"{'GET' if content is None else 'POST'} {path} HTTP/1.1", "Host: api"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if content is not None:
        lines += [f"Content-Type: {content_type}", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (content or b"")


def said(port: int, data: bytes) -> bytes:
    """Say *data* to a server and return all that it says until it closes the connection."""
    found = b""
    with socket.create_connection((_HOST, port), timeout=_TIMEOUT_SECONDS) as client:
        with contextlib.suppress(ConnectionError):  # it may have answered before it heard all
            client.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            while chunk := client.recv(65_536):
                found += chunk
    return found


def said_at_last(port: int, data: bytes) -> bytes:
    """Say *data* as `said` does, and again while the service says that it cannot answer now."""
    while (answer := said(port, data)).startswith(b"HTTP/1.1 503 "):
        time.sleep(_PAUSE_SECONDS)
    return answer


async def cut(port: int, data: bytes, after_seconds: float) -> None:
    """Say *data* to a server, and be gone a little later, whatever it has answered by then."""
    _, writer = await asyncio.open_connection(_HOST, port)
    writer.write(data)
    await asyncio.sleep(after_seconds)
    writer.transport.abort()
