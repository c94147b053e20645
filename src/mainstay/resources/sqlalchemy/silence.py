"""How long may a server that holds a connection say nothing before it is given up?

A server that is paused, or behind a network that drops everything, ends no statement and closes
no connection, so none of its own time limits is of use. Here the client's clock decides: a
connection that comes from the pool must answer within a second, and a statement a second after
the server itself should have ended it. Where the server is silent to everybody, none of them
waits for longer than that takes to find out: see :mod:`mainstay.resources.sqlalchemy.presence`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Engine, event
from sqlalchemy.exc import InvalidatePoolError

from mainstay.errors import NotConnected
from mainstay.resources.sqlalchemy.presence import Presence

if TYPE_CHECKING:
    from psycopg import Connection
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

__all__ = ["bounded_connection", "end", "hurried", "listen"]

T = TypeVar("T")

PING_TIMEOUT_SECONDS = 1.0
HURRIED_SECONDS = 0.3
"""For one who asks a server that is lost, as far as anybody knows."""
_IDLE = "mainstay_idle"
_TICK_SECONDS = 0.1


def bounded_connection(
    answer_seconds: float | None, presence: Presence | None
) -> type[Connection[Any]]:
    """Return psycopg's connection with a limit on every wait for the server.

    Args:
        answer_seconds: The limit while the connection is in use; ``None`` for none.
        presence: Of the server, where a wait is to end with it.
    """
    import psycopg

    class Bounded(psycopg.Connection[Any]):
        """The limit is a second while the connection is in the pool: that is the pre-ping."""

        is_idle = False

        def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
            limit = _ping_seconds(presence) if self.is_idle else answer_seconds
            try:
                return super().wait(_within(gen, limit, presence), *args, **kwargs)
            except TimeoutError:
                self.close()  # what the server may still say would be taken for a later answer
                if self.is_idle:
                    raise _silent() from None
                raise psycopg.OperationalError("the server does not answer") from None

    return Bounded


def _within(
    steps: Generator[Any, Any, T], limit_seconds: float | None, presence: Presence | None
) -> Generator[Any, Any, T]:
    """Take psycopg's *steps*, which are told ten times a second when nothing has come yet.

    Raises:
        TimeoutError: Nothing came for that long, or the server is gone.
    """
    began = time.monotonic()
    try:
        asked = next(steps)
        while True:
            ready = yield asked
            if not ready:
                waited = time.monotonic() - began
                if limit_seconds is not None and waited > limit_seconds:
                    raise TimeoutError
                if presence is not None and presence.is_lost_to(waited):
                    raise TimeoutError
            asked = steps.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result


def listen(made: Engine, presence: Presence) -> None:
    """Bound the waits on connections of *made*, in its pool and out of it."""
    if made.dialect.driver == "psycopg":
        _Threads(presence).listen(made)
    elif made.dialect.driver == "asyncpg":
        _Loop(presence).listen(made)


class _Threads:
    """Psycopg's connections know by themselves how long they wait; here they are told when they
    are in the pool, where they wait for the answer to the pool's ping alone.
    """

    def __init__(self, presence: Presence) -> None:
        self._presence = presence

    def listen(self, made: Engine) -> None:
        event.listen(made, "checkin", self._checkin)
        event.listen(made, "checkout", self._checkout)

    def _checkin(self, connection: Any, record: ConnectionPoolEntry) -> None:
        if connection is not None:
            self._presence.answered()
            connection.is_idle = True

    def _checkout(
        self, connection: Any, record: ConnectionPoolEntry, proxy: PoolProxiedConnection
    ) -> None:
        self._presence.answered()
        connection.is_idle = False


class _Loop:
    """Asyncpg's connections take no limit on a ping, and tell nobody that they wait: they are
    pinged here, and while any is out of the pool a timer looks how long it has been.
    """

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._out: dict[ConnectionPoolEntry, tuple[float, Any]] = {}
        self._is_looking = False

    def listen(self, made: Engine) -> None:
        event.listen(made, "checkin", self._checkin)
        event.listen(made, "checkout", self._checkout)

    def _checkin(self, connection: Any, record: ConnectionPoolEntry) -> None:
        self._out.pop(record, None)
        if connection is not None:
            self._presence.answered()
            record.info[_IDLE] = True

    def _checkout(
        self, connection: Any, record: ConnectionPoolEntry, proxy: PoolProxiedConnection
    ) -> None:
        if record.info.pop(_IDLE, False):  # it has not just been made
            self._ping(connection)
        self._presence.answered()
        self._out[record] = time.monotonic(), connection
        if not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_later(_TICK_SECONDS, self._look)

    def _ping(self, connection: Any) -> None:
        try:
            connection.run_async(partial(_ask, seconds=_ping_seconds(self._presence)))
        except TimeoutError:
            end(connection)
            self._presence.doubt()
            raise _silent() from None
        except Exception as error:
            # Most likely the server was restarted, so the others in the pool are gone as well.
            raise InvalidatePoolError from error

    def _look(self) -> None:
        now = time.monotonic()
        waited = [(now - since, connection) for since, connection in self._out.values()]
        for seconds, connection in waited:
            if self._presence.is_lost_to(seconds):
                end(connection)
        self._is_looking = bool(waited)
        if waited:
            asyncio.get_running_loop().call_later(_TICK_SECONDS, self._look)


def end(connection: Any) -> None:
    """Close an asyncpg connection now; its own goodbye would wait two seconds for an answer."""
    connection.driver_connection.terminate()


def hurried(made: Engine, presence: Presence, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the *arguments* of a connect to a server that is lost: it may just have come back.

    Raises:
        NotConnected: It has not, and the driver knows no limit that is short enough.
    """
    if made.dialect.driver == "asyncpg":
        return {**arguments, "timeout": HURRIED_SECONDS}
    deadline = time.monotonic() + HURRIED_SECONDS
    while presence.is_lost:
        if time.monotonic() > deadline:
            raise _silent()
        time.sleep(HURRIED_SECONDS / 10)
    return arguments


def _ping_seconds(presence: Presence | None) -> float:
    is_lost = presence is not None and presence.is_lost
    return HURRIED_SECONDS if is_lost else PING_TIMEOUT_SECONDS


async def _ask(connection: Any, *, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await connection.execute("select 1")


def _silent() -> NotConnected:
    return NotConnected("the database does not answer: try again")
