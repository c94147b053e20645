"""How long may a client take to say what it wants, or to hear the answer?

uvicorn begins to count when the head of a request is complete. Before that a connection that never
speaks, or speaks a byte at a time, stays open for ever, and a head that does not end is kept in
memory for as long as it comes; afterwards an answer that nobody reads keeps its request in hand.
So its protocol is given limits here. What it cannot read is answered as every other error is, and
never in the middle of another answer.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mainstay.context import new_id
from mainstay.errors import MainstayError, Malformed
from mainstay.http.problems import MEDIA_TYPE, HeadersTooLarge, TimedOut, problem_of

if TYPE_CHECKING:
    from mainstay.http.wire import Receive, Scope

__all__ = ["HEAD_LIMIT_BYTES", "Limited", "forget_forwarded", "limit_connections"]

HEAD_LIMIT_BYTES = 65_536
"""Of the request line and headers, beyond the first packet; h11 has a limit of its own."""

HEAD_SECONDS = 10.0
"""For a connection to become a request; one that is kept alive and silent is uvicorn's to end."""

UNREAD_SECONDS = 30.0
"""For a client to take any byte of what waits for it."""

LINGER_SECONDS = 0.3
"""For what was sent before the server stopped and has not been read: closing would reset it."""

_SWEEP_SECONDS = 1.0


@contextmanager
def limit_connections() -> Iterator[None]:
    """Hold the connections of the uvicorn server that this process is to the limits.

    Enter it before the server listens and before SIGTERM is taken over, on its event loop. Does
    nothing under other servers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    server: Any = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    base = getattr(getattr(server, "config", None), "http_protocol_class", None)
    if base is None:
        yield
        return
    server.config.http_protocol_class = type("LimitedProtocol", (Limited, base), {})
    sweeper = _Sweeper(server.server_state.connections, asyncio.get_running_loop())
    try:
        yield
    finally:
        sweeper.close()
        server.config.http_protocol_class = base


def forget_forwarded(scope: Scope, receive: Receive) -> None:
    """Put back into *scope* the address and the scheme that the connection itself has.

    uvicorn, unless it is told not to, believes the forwarded headers of whoever connects from
    127.0.0.1, and writes over both before an application is called.
    """
    owner: Any = getattr(receive, "__self__", None)
    if not type(owner).__module__.startswith("uvicorn."):
        return
    from uvicorn.protocols.utils import get_remote_addr, is_ssl

    scope["client"] = get_remote_addr(owner.transport)
    plain = "ws" if scope["type"] == "websocket" else "http"
    scope["scheme"] = f"{plain}s" if is_ssl(owner.transport) else plain


class Limited(asyncio.Protocol):
    """Stands before either of uvicorn's HTTP protocols, httptools or h11."""

    transport: Any
    scope: Any
    cycle: Any
    timeout_keep_alive_task: asyncio.TimerHandle | None
    _head_bytes = -1
    """What came after the first packet of a head that is not complete; else -1."""

    @property
    def is_asking(self) -> bool:
        """Has a request been begun whose head is not complete?"""
        scope, cycle = self.scope, self.cycle
        return scope is not None and (cycle is None or cycle.scope is not scope)

    @property
    def is_in_hand(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.is_asking:
            self._head_bytes = -1
            return
        self._head_bytes = 0 if self._head_bytes < 0 else self._head_bytes + len(data)
        if self._head_bytes > HEAD_LIMIT_BYTES:
            self.refuse(
                HeadersTooLarge(f"the headers are longer than {HEAD_LIMIT_BYTES} bytes: send less")
            )

    def send_400_response(self, msg: str) -> None:
        self.refuse(Malformed(f"this is no request that can be read: {msg}"))

    def shutdown(self) -> None:
        """Called once by uvicorn, when it stops."""
        shutdown: Callable[[], None] = super().shutdown  # type: ignore[misc]
        asyncio.get_running_loop().call_later(LINGER_SECONDS, shutdown)

    def refuse(self, error: MainstayError) -> None:
        """Answer with the problem that *error* is, and close."""
        cycle = self.cycle
        if self.is_in_hand and (cycle.response_started or not cycle.more_body):
            cycle.keep_alive = False  # an answer is on its way: it is the last one
            return
        problem = problem_of(error)
        id = new_id()
        body = problem.document(instance="", correlation_id=id)
        head = (
            f"HTTP/1.1 {problem.status} {problem.title}\r\ncontent-type: {MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\nx-correlation-id: {id}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def hurry(self, *, is_unread: bool) -> None:
        """Let go of a client that keeps us waiting."""
        if is_unread:
            self.transport.abort()
        elif self.is_asking:
            self.refuse(TimedOut("the headers did not come in time: send them faster"))
        else:
            self.transport.close()


class _Sweeper:
    """Looks once a second which connections have not moved; cheaper than a timer for each."""

    def __init__(self, connections: set[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._connections = connections
        self._loop = loop
        self._waiting: dict[Limited, tuple[tuple[object, int], float]] = {}
        self._timer = loop.call_later(_SWEEP_SECONDS, self._sweep)

    def close(self) -> None:
        self._timer.cancel()

    def _sweep(self) -> None:
        now = self._loop.time()
        waiting: dict[Limited, tuple[tuple[object, int], float]] = {}
        for connection in list(self._connections):
            if not isinstance(connection, Limited):
                continue  # a WebSocket, which has pings
            unread: int = connection.transport.get_write_buffer_size()
            # uvicorn ends what is kept alive, but for a head that came half with the one before.
            is_resting = connection.timeout_keep_alive_task is not None and not connection.is_asking
            if (connection.is_in_hand or is_resting) and not unread:
                continue
            mark = (connection.cycle, unread)
            before, since = self._waiting.get(connection, (mark, now))
            if before != mark:
                since = now
            if now - since > (UNREAD_SECONDS if unread else HEAD_SECONDS):
                connection.hurry(is_unread=unread > 0)
            else:
                waiting[connection] = (mark, since)
        self._waiting = waiting
        self._timer = self._loop.call_later(_SWEEP_SECONDS, self._sweep)
