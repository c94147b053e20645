"""How an engine is made so that it never hangs and never shows an address: options and events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, Connection, ExceptionContext, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool, QueuePool, StaticPool

from mainstay.errors import Unavailable
from mainstay.resources.sqlalchemy import asyncpg, json, pools, silence, spans
from mainstay.resources.sqlalchemy.failures import explain, sqlstate, unreachable
from mainstay.resources.sqlalchemy.presence import Presence
from mainstay.resources.sqlalchemy.tables import SCHEMA

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
    from sqlalchemy.pool import ConnectionPoolEntry

    from mainstay.traces import Traces

__all__ = ["Limits", "async_engine", "engine", "ping_engine"]

# libpq knows no shorter one.
CONNECT_TIMEOUT_SECONDS = 2
# A connection is replaced before a proxy or firewall in between forgets it.
RECYCLE_SECONDS = 1500
READ_ONLY = "mainstay_read_only"
_ACTIVE = 1  # psycopg's TransactionStatus.ACTIVE: what is sent has not been answered


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections a process holds, and how long each thing may take, in seconds.

    Args:
        pool_size: Connections kept open.
        max_overflow: Connections beyond those, while in demand.
        pool_timeout: Wait for a free one.
        statement_timeout: One statement, on the server.
        lock_timeout: Wait for a lock, on the server.
        idle_in_transaction_timeout: A transaction that sends nothing; no shorter than a task may
            work between two statements.
        application_name: What `pg_stat_activity` shows.
    """

    pool_size: int = 10
    max_overflow: int = 20
    pool_timeout: float = 2.0
    statement_timeout: float = 10.0
    lock_timeout: float = 2.0
    idle_in_transaction_timeout: float = 300.0
    application_name: str = "mainstay"

    @property
    def server_settings(self) -> dict[str, str]:
        """What each PostgreSQL session is started with."""
        return {
            "statement_timeout": _milliseconds(self.statement_timeout),
            "lock_timeout": _milliseconds(self.lock_timeout),
            "idle_in_transaction_session_timeout": _milliseconds(self.idle_in_transaction_timeout),
            "timezone": "UTC",
        }

    @property
    def answer_timeout(self) -> float | None:
        """How long to wait for a server that cannot even say that a statement took too long."""
        return self.statement_timeout + 1.0 if self.statement_timeout else None


def engine(
    url: str,
    limits: Limits,
    presence: Presence,
    *,
    echo: bool = False,
    traces: Traces | None = None,
) -> Engine:
    """Make the engine of blocking code; it connects on first use."""
    address = make_url(url)
    made = create_engine(
        address,
        connect_args=_connect_args(address, limits),
        echo=echo,
        **_pool(address, limits, pools.Pool),
    )
    _listen(made, limits, presence)
    _listen_in_use(made, presence, traces)
    return made


def async_engine(
    url: str,
    limits: Limits,
    presence: Presence,
    *,
    echo: bool = False,
    traces: Traces | None = None,
) -> AsyncEngine:
    """Make the engine of one event loop; it connects on first use."""
    address = make_url(url)
    connect_args = _connect_args(address, limits)
    if address.get_driver_name() == "asyncpg":
        address, given = asyncpg.arguments(address)
        # What the URL says wins.
        given["server_settings"] = connect_args["server_settings"] | given.get(
            "server_settings", {}
        )
        connect_args |= given
    made = create_async_engine(
        address, connect_args=connect_args, echo=echo, **_pool(address, limits, pools.AsyncPool)
    )
    _listen(made.sync_engine, limits, presence)
    _listen_in_use(made.sync_engine, presence, traces)
    return made


def ping_engine(url: str, limits: Limits) -> Engine:
    """Make an engine without a pool: each connection is its own, for health and migrations."""
    address = make_url(url)
    made = create_engine(
        address, connect_args=_connect_args(address, limits), poolclass=NullPool, **_ALWAYS
    )
    _listen(made, limits, None)
    return made


_ALWAYS: Mapping[str, Any] = {
    "json_serializer": json.dumps,
    "json_deserializer": json.loads,
    # Messages of errors end up in logs and spans, where no row's values belong.
    "hide_parameters": True,
}


def _pool(address: URL, limits: Limits, kind: type[QueuePool]) -> dict[str, Any]:
    if _is_in_memory(address):
        # Each connection would be an empty database of its own.
        return {"poolclass": StaticPool, **_ALWAYS}
    return {
        "poolclass": kind,
        "pool_size": limits.pool_size,
        "max_overflow": limits.max_overflow,
        "pool_timeout": limits.pool_timeout,
        "pool_recycle": RECYCLE_SECONDS,
        # asyncpg's ping has no time limit of its own: silence.py has one.
        "pool_pre_ping": address.get_driver_name() != "asyncpg",
        # What was used last is used next, so the others may grow old and be closed by the server.
        "pool_use_lifo": True,
        **_ALWAYS,
    }


def _connect_args(address: URL, limits: Limits) -> dict[str, Any]:
    settings = limits.server_settings
    if address.username == SCHEMA:
        # Each user's search path begins with the schema of the user's own name: without this, a
        # user called as our schema is would get the service's tables among ours.
        settings["search_path"] = "public"
    match address.get_driver_name():
        case "asyncpg":
            return {
                "timeout": float(CONNECT_TIMEOUT_SECONDS),
                "command_timeout": limits.answer_timeout,
                "server_settings": {
                    "application_name": limits.application_name,
                    **settings,
                },
            }
        case "psycopg":
            given = address.query.get("options", "")
            options = [f"-c {name}={value}" for name, value in settings.items()]
            return {
                "connect_timeout": CONNECT_TIMEOUT_SECONDS,
                "application_name": limits.application_name,
                # What the URL says comes last, so it wins.
                "options": " ".join([*options, given if isinstance(given, str) else ""]).strip(),
                "keepalives_idle": 30,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            }
        case _:
            return {"check_same_thread": False, "timeout": limits.lock_timeout}


def _listen(made: Engine, limits: Limits, presence: Presence | None) -> None:
    event.listen(made, "do_connect", _connector(made, limits, presence))
    if made.dialect.driver == "asyncpg":
        event.listen(made, "handle_error", _on_error)
    if made.dialect.driver == "psycopg":
        event.listen(made, "handle_error", _on_set_up)
        event.listen(made, "handle_error", _on_interrupted)
    if made.dialect.name == "sqlite":
        event.listen(made, "connect", _prepare_sqlite)
        event.listen(made, "begin", _begin_sqlite)


def _listen_in_use(made: Engine, presence: Presence, traces: Traces | None) -> None:
    silence.listen(made, presence)
    event.listen(made, "handle_error", lambda context: explain(context.sqlalchemy_exception))
    if traces is not None:
        spans.listen(made, traces)


def _connector(
    made: Engine, limits: Limits, presence: Presence | None
) -> Callable[..., DBAPIConnection]:
    connect: Callable[..., Any] = made.dialect.connect
    if made.dialect.driver == "psycopg":
        connect = silence.bounded_connection(limits.answer_timeout, presence).connect

    def connected(
        dialect: Dialect,
        record: ConnectionPoolEntry,
        cargs: tuple[Any, ...],
        cparams: dict[str, Any],
    ) -> DBAPIConnection:
        if presence is not None and presence.is_lost:
            cparams = silence.hurried(made, presence, cparams)
        try:
            connection: DBAPIConnection = connect(*cargs, **cparams)
        except Exception as error:
            if not isinstance(error, (OSError, TimeoutError)) and not _is_of_driver(dialect, error):
                raise
            raise unreachable(error) from error
        return connection

    return connected


def _is_of_driver(dialect: Dialect, error: Exception) -> bool:
    # asyncpg's own errors come through as they are while there is no connection yet.
    return isinstance(error, dialect.loaded_dbapi.Error) or hasattr(error, "sqlstate")


def _on_error(context: ExceptionContext) -> None:
    """Answer for the two things that asyncpg raises bare: a connection that broke, and silence."""
    error = context.original_exception
    if not isinstance(error, OSError):  # TimeoutError is one
        return
    context.is_disconnect = True  # what the server may still say belongs to no later statement
    if context.connection is not None:
        silence.end(context.connection.connection)
    said = "does not answer" if isinstance(error, TimeoutError) else "closed the connection"
    raise Unavailable(f"the database {said}: try again") from error


def _on_set_up(context: ExceptionContext) -> None:
    """Answer for a connection that breaks before anybody has it, while SQLAlchemy asks on it what
    the server can: to psycopg that is an error like another.
    """
    error = context.original_exception
    if context.connection is None and not context.is_pre_ping and not sqlstate(error):
        raise unreachable(error) from error


def _on_interrupted(context: ExceptionContext) -> None:
    """Let go of a connection whose statement was interrupted, as the time limit of a task does:
    the answer is still to come, and no later statement must meet it.
    """
    if context.connection is None or context.connection.invalidated:
        return
    raw: Any = context.connection.connection.dbapi_connection
    if raw is not None and raw.info.transaction_status == _ACTIVE:
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False


def _prepare_sqlite(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    # The driver begins transactions late and of the wrong kind; _begin_sqlite does it instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later would fail at once when another has written
    # in between, whatever the busy timeout: so the write lock is taken at the start.
    read_only = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _is_in_memory(address: URL) -> bool:
    return address.get_backend_name() == "sqlite" and (
        address.database in (None, "", ":memory:") or address.query.get("mode") == "memory"
    )


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
