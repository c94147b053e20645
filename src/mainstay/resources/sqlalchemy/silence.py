"""How long may a server that holds a connection say nothing before it is given up?

A server that is paused, or behind a network that drops everything, ends no statement and closes
no connection, so none of its own time limits is of use. Here the client's clock decides: a
connection that comes from the pool must answer within a second, and a statement a second after
the server itself should have ended it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Engine, event
from sqlalchemy.exc import InvalidatePoolError

from mainstay.errors import NotConnected

if TYPE_CHECKING:
    from psycopg import Connection
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

__all__ = ["PING_TIMEOUT_SECONDS", "bounded_connection", "end", "listen"]

T = TypeVar("T")

PING_TIMEOUT_SECONDS = 1.0
_IDLE = "mainstay_idle"


def bounded_connection(answer_seconds: float | None) -> type[Connection[Any]]:
    """Return psycopg's connection with a limit on every wait for the server.

    Args:
        answer_seconds: The limit while the connection is in use; ``None`` for none.
    """
    import psycopg

    class Bounded(psycopg.Connection[Any]):
        """The limit is a second while the connection is in the pool: that is the pre-ping."""

        is_idle = False

        def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
            limit = PING_TIMEOUT_SECONDS if self.is_idle else answer_seconds
            if limit is None:
                return super().wait(gen, *args, **kwargs)
            try:
                return super().wait(_within(gen, limit), *args, **kwargs)
            except TimeoutError:
                self.close()  # what the server may still say would be taken for a later answer
                if self.is_idle:
                    raise _silent() from None
                raise psycopg.OperationalError(f"no answer within {limit:g} s") from None

    return Bounded


def _within(steps: Generator[Any, Any, T], seconds: float) -> Generator[Any, Any, T]:
    """Take psycopg's *steps*, which are told ten times a second when nothing has come yet.

    Raises:
        TimeoutError: Nothing came for that long.
    """
    deadline = time.monotonic() + seconds
    try:
        asked = next(steps)
        while True:
            ready = yield asked
            if not ready and time.monotonic() > deadline:
                raise TimeoutError
            asked = steps.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result


def listen(made: Engine) -> None:
    """Bound the pre-ping of *made*; asyncpg's, which takes no limit of its own, is replaced."""
    if made.dialect.driver == "psycopg":
        event.listen(made, "checkin", _rest)
        event.listen(made, "checkout", _wake)
    elif made.dialect.driver == "asyncpg":
        event.listen(made, "checkin", _note_idle)
        event.listen(made, "checkout", _ping)


def _rest(connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    if connection is not None:
        connection.is_idle = True


def _wake(
    connection: DBAPIConnection, record: ConnectionPoolEntry, proxy: PoolProxiedConnection
) -> None:
    connection.is_idle = False


def _note_idle(connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    record.info[_IDLE] = True


def _ping(connection: Any, record: ConnectionPoolEntry, proxy: PoolProxiedConnection) -> None:
    if not record.info.pop(_IDLE, False):
        return  # it has just been made
    try:
        connection.run_async(_ask)
    except TimeoutError:
        end(connection)
        raise _silent() from None
    except Exception as error:
        # Most likely the server was restarted, so the others in the pool are gone as well.
        raise InvalidatePoolError from error


def end(connection: Any) -> None:
    """Close an asyncpg connection now; its own goodbye would wait two seconds for an answer."""
    connection.driver_connection.terminate()


async def _ask(connection: Any) -> None:
    async with asyncio.timeout(PING_TIMEOUT_SECONDS):
        await connection.execute("select 1")


def _silent() -> NotConnected:
    return NotConnected("the database does not answer: try again")
