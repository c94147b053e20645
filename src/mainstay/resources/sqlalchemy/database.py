"""The service's database: an engine a process, one more an event loop, and the unit of work."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, TypeVarTuple

from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn
from typing_extensions import TypeVar

from mainstay.config import urls
from mainstay.errors import Unavailable
from mainstay.health import Check
from mainstay.resources.sqlalchemy import engines
from mainstay.resources.sqlalchemy.engines import READ_ONLY, Limits
from mainstay.resources.sqlalchemy.failures import translated
from mainstay.resources.sqlalchemy.presence import Presence
from mainstay.service import Resource

if TYPE_CHECKING:
    from mainstay.traces import Traces

__all__ = ["Database", "SchemaBehind", "let_go"]

_logger = logging.getLogger("mainstay.database")

E = TypeVar("E", Engine, AsyncEngine)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
S_co = TypeVar("S_co", bound=Session, default=Session, covariant=True)
A_co = TypeVar("A_co", bound=AsyncSession, default=AsyncSession, covariant=True)


_BEHIND = "the schema is behind this code: run `mainstay db upgrade`"
_REFUSES = "SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool"


class SchemaBehind(Unavailable):
    """The database lacks migrations that this code needs; which ones is for the log alone."""

    @property
    def detail(self) -> str:
        return _BEHIND


class Database(Resource, Generic[S_co, A_co]):
    """A PostgreSQL or SQLite database.

    For a service whose tables are SQLModel models::

        from sqlmodel import Session
        from sqlmodel.ext.asyncio.session import AsyncSession

        database = Database(
            models="data.models", session_class=Session, async_session_class=AsyncSession
        )

    Args:
        url: The database; `database_url` of the settings by default. Any driver may be named.
        async_url: The same for asyncio, where it needs options of its own.
        models: The modules that define the tables, ``"data.models"``; the folder around their
            package is where the service's migrations are looked for.
        schema: What the tables name as their schema, where they do; SQLite, which has no schemas,
            has them without.
        session_class: The class of sessions for blocking code, in requests and tasks too:
            SQLAlchemy's or a subclass, such as SQLModel's.
        async_session_class: Likewise for asyncio.
        statement_timeout_seconds: One statement, on the server.
        lock_timeout_seconds: Wait for a lock.
        idle_in_transaction_timeout_seconds: A transaction that sends nothing;
            `celery_task_time_limit` by default, because a task may work that long between two
            statements.
        optional: Without it the service is degraded, not unhealthy.
    """

    name = "database"

    def __init__(
        self,
        *,
        url: str | None = None,
        async_url: str | None = None,
        models: str | Sequence[str] = (),
        schema: str | None = None,
        session_class: type[S_co] = Session,  # type: ignore[assignment]  # it is S_co's default
        async_session_class: type[A_co] = AsyncSession,  # type: ignore[assignment]  # likewise
        statement_timeout_seconds: float = 10.0,
        lock_timeout_seconds: float = 2.0,
        idle_in_transaction_timeout_seconds: float | None = None,
        optional: bool = False,
    ) -> None:
        self.models = (models,) if isinstance(models, str) else tuple(models)
        self.schema = schema
        self.optional = optional
        self._session_class = session_class
        self._async_session_class = async_session_class
        self._url = url
        self._async_url = async_url
        self._statement_timeout = statement_timeout_seconds
        self._lock_timeout = lock_timeout_seconds
        self._idle_timeout = idle_in_transaction_timeout_seconds
        self._is_at_head = False
        self._said = ""
        self._open = _Open(self._answer)

    @property
    def is_named(self) -> bool:
        return bool(self._url or self._async_url or self.service.settings.database_url)

    @property
    def url(self) -> str:
        """The address for blocking code, driver included; holds the password.

        Raises:
            Misconfigured: Nobody named a database.
        """
        given = self._url or self._async_url
        return urls.sync_url(given or self.service.settings.need("database_url"))

    @property
    def async_url(self) -> str:
        """The address for asyncio, driver included; holds the password.

        Raises:
            Misconfigured: Nobody named a database.
        """
        given = self._async_url or self._url
        return urls.async_url(given or self.service.settings.need("async_database_url"))

    @property
    def engine(self) -> Engine:
        """The engine of this process; threads may share it."""
        return self._views.whole

    @property
    def async_engine(self) -> AsyncEngine:
        """The engine of the running event loop."""
        return self._async_views.whole

    def new_session(self) -> S_co:
        """Return a session that the caller commits and closes; :meth:`session` does both."""
        return self._session_class(self._views.whole, expire_on_commit=False)

    def new_async_session(self) -> A_co:
        """As :meth:`new_session`, on this event loop."""
        return self._async_session_class(self._async_views.whole, expire_on_commit=False)

    @contextmanager
    def session(self, *, read_only: bool = False) -> Iterator[S_co]:
        """Open a unit of work: committed at the end, rolled back on any error, always closed.

        It takes a connection with its first statement and none before. Objects stay readable
        after the commit.

        Args:
            read_only: It only reads. PostgreSQL then refuses writes, SQLite waits for no writer.

        Raises:
            Retry: The database does not answer, or not now; nothing was kept.
            Disconnected: The connection broke during the commit: the outcome is unknown.
        """
        views = self._views
        bind = views.reading if read_only else views.whole
        with translated(), self._session_class(bind, expire_on_commit=False) as session:
            yield session
            with translated(committing=True):
                session.commit()

    @asynccontextmanager
    async def asession(self, *, read_only: bool = False) -> AsyncIterator[A_co]:
        """Open a unit of work on this event loop; else as :meth:`session`."""
        views = self._async_views
        bind = views.reading if read_only else views.whole
        with translated():
            async with self._async_session_class(bind, expire_on_commit=False) as session:
                yield session
                with translated(committing=True):
                    await session.commit()

    @contextmanager
    def autocommit(self, *, read_only: bool = False) -> Iterator[Connection]:
        """Take a connection whose every statement commits by itself, for as short as can be.

        On SQLite, which has one writer anyway, the block is one transaction.

        Args:
            read_only: It only reads; on SQLite it then waits for no writer.

        Raises:
            Retry: The database does not answer, or not now.
        """
        views = self._views
        bind = views.reading_at_once if read_only else views.at_once
        with translated(), bind.begin() as connection:
            yield connection

    async def aautocommit(
        self, work: Callable[[Connection, *Ts], T], *args: *Ts, read_only: bool = False
    ) -> T:
        """Do *work* with such a connection on this event loop; else as :meth:`autocommit`.

        Taking the connection, using it and giving it back are one crossing of SQLAlchemy's bridge
        to the event loop.
        """
        views = self._async_views
        bind = (views.reading_at_once if read_only else views.at_once).sync_engine

        def done() -> T:
            with bind.begin() as connection:
                return work(connection, *args)

        with translated():
            return await greenlet_spawn(done)

    def apart(self, *, idle_in_transaction_seconds: float | None = None) -> Connection:
        """Open a connection to look or to listen, whose every statement stands for itself; the
        caller closes it. On PostgreSQL it is in no pool, so it can be had when that is exhausted.

        Args:
            idle_in_transaction_seconds: The database's own by default.

        Raises:
            Retry: The database does not answer, or not now.
        """
        if self.engine.dialect.name != "postgresql":
            return self._views.reading_at_once.connect()
        engine = self._engine_of_its_own()
        if idle_in_transaction_seconds is not None:
            limits = replace(
                self._limits(), idle_in_transaction_timeout=idle_in_transaction_seconds
            )
            engine = engines.ping_engine(self.url, limits)
        return engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def ping(self) -> Mapping[str, object] | None:
        """Ask whether the database takes writes: after a failover to a standby it does not.

        Raises:
            Unavailable: It does not, or does not answer.
        """
        if self._answer():
            raise Unavailable("the database accepts no writes: it is a standby, or read-only")
        return None

    def _answer(self) -> bool:
        """Ask the server something that takes no time: does it refuse writes?"""
        engine = self._engine_of_its_own()
        is_sqlite = engine.dialect.name == "sqlite"
        with engine.connect().execution_options(**{READ_ONLY: True}) as connection:
            return bool(connection.exec_driver_sql("SELECT 0" if is_sqlite else _REFUSES).scalar())

    @property
    def idle_in_transaction_seconds(self) -> float | None:
        """How long a transaction may send nothing; ``None`` where nobody ends it for that."""
        is_ended = self.url.startswith("postgresql")
        return self._limits().idle_in_transaction_timeout or None if is_ended else None

    def readiness(self) -> Sequence[Check]:
        """Until the schema is as this code needs it: not ready, rather than not started."""
        return (Check("schema", self._is_migrated),)

    def close(self) -> None:
        """Let go of every connection; can be called twice, and used again afterwards.

        Connections of an event loop that runs are closed by it a little later: there,
        :meth:`aclose` is the better way.
        """
        closing, self._open = self._here(), _Open(self._answer)
        closing.presence.close()
        if closing.views is not None:
            closing.views.whole.dispose()
        for loop, views in closing.async_views.items():
            _close_on(loop, views.whole)

    async def aclose(self) -> None:
        views = self._here().async_views.pop(asyncio.get_running_loop(), None)
        if views is not None:
            await views.whole.dispose()
        self.close()

    @property
    def _views(self) -> _Views[Engine]:
        open_ = self._here()
        if open_.views is None:
            with open_.lock:
                if open_.views is None:
                    made = engines.engine(
                        self.url,
                        self._limits(),
                        open_.presence,
                        echo=self._echo(),
                        traces=self._traces(),
                    )
                    open_.views = _Views(made, made.name, self.schema)
        return open_.views

    @property
    def _async_views(self) -> _Views[AsyncEngine]:
        loop = asyncio.get_running_loop()
        open_ = self._here()
        views = open_.async_views.get(loop)
        if views is None:  # nobody else makes this loop's
            made = engines.async_engine(
                self.async_url,
                self._limits(),
                open_.presence,
                echo=self._echo(),
                traces=self._traces(),
            )
            views = _Views(made, made.name, self.schema)
            with open_.lock:
                open_.forget_closed_loops()
                open_.async_views[loop] = views
        return views

    def _engine_of_its_own(self) -> Engine:
        """Health must be able to ask when the pool is exhausted: each connection is a new one."""
        open_ = self._here()
        with open_.lock:
            if open_.ping_engine is None:
                open_.ping_engine = engines.ping_engine(self.url, self._limits())
            return open_.ping_engine

    def _is_migrated(self) -> None:
        if self._is_at_head:
            return  # a schema only moves forward while processes run
        engine = self._engine_of_its_own()
        with engine.connect().execution_options(**{READ_ONLY: True}) as connection:
            lacking = self._lacking(connection)
        if not lacking:
            self._is_at_head = True
            return
        if lacking != self._said:
            # Once: who asks whether it is ready is told no more than that it is not.
            self._said = lacking
            _logger.warning("not ready: %s", lacking)
        raise SchemaBehind(lacking)

    def _lacking(self, connection: Connection) -> str:
        """Say what the schema lacks, and what to do; nothing when it lacks nothing."""
        from mainstay.resources.sqlalchemy import migrate

        for position in migrate.positions(connection, migrate.folder_of(self.models)):
            if not position.is_at_head:
                return position.conflict or _BEHIND
        missing = ", ".join(self._missing(connection))
        if not missing:
            return ""
        return (
            f"the models define tables that the database lacks ({missing}): `mainstay db revision "
            f"--autogenerate -m …` writes the migration, `mainstay db upgrade` applies it"
        )

    def _missing(self, connection: Connection) -> list[str]:
        """Return the tables of the models that are not there."""
        from mainstay.resources.sqlalchemy.models import tables_of

        has_schemas = connection.dialect.name != "sqlite"
        there = inspect(connection)
        return [
            table.fullname
            for table in tables_of(self.models)
            if not there.has_table(table.name, table.schema if has_schemas else None)
        ]

    def _here(self) -> _Open:
        """What this process has open; what a parent had is forgotten, not closed."""
        inherited = self._open
        if inherited.pid != os.getpid():
            self._open = _Open(self._answer)
            inherited.forget()
        return self._open

    def _limits(self) -> Limits:
        limits = Limits(statement_timeout=self._statement_timeout, lock_timeout=self._lock_timeout)
        if self._service is not None:
            settings = self._service.settings
            limits = replace(
                limits,
                pool_size=settings.db_pool_size,
                max_overflow=settings.db_max_overflow,
                pool_timeout=settings.db_pool_timeout_seconds,
                idle_in_transaction_timeout=float(settings.celery_task_time_limit),
                # The server cuts names at 63 bytes; the process is what tells two apart.
                application_name=f"{settings.service_name[:50]}/{os.getpid()}",
            )
        if self._idle_timeout is not None:
            limits = replace(limits, idle_in_transaction_timeout=self._idle_timeout)
        return limits

    def _traces(self) -> Traces | None:
        return None if self._service is None else self._service.traces

    def _echo(self) -> bool:
        return self._service is not None and self._service.settings.sql_echo


class _Open:
    """What one process has open.

    A forked child gets one of its own: the parent's sockets are the parent's, and the lock may
    have been held by a thread that did not survive the fork.
    """

    def __init__(self, ask: Callable[[], object]) -> None:
        self.pid = os.getpid()
        self.presence = Presence(ask)
        self.lock = threading.Lock()
        self.views: _Views[Engine] | None = None
        self.ping_engine: Engine | None = None
        self.async_views: dict[asyncio.AbstractEventLoop, _Views[AsyncEngine]] = {}

    def forget(self) -> None:
        """Let go without closing: a goodbye from here would end the parent's sessions."""
        if self.views is not None:
            self.views.whole.dispose(close=False)
        for views in self.async_views.values():
            views.whole.sync_engine.dispose(close=False)

    def forget_closed_loops(self) -> None:
        """Who runs one event loop after the other, and closes nothing, collects no engines."""
        for loop in [loop for loop in self.async_views if loop.is_closed()]:
            self.async_views.pop(loop).whole.sync_engine.dispose(close=False)


class _Views(Generic[E]):
    """One engine, and the same with the options of each kind of use; they share its pool."""

    def __init__(self, engine: E, dialect: str, schema: str | None) -> None:
        at_once: dict[str, object] = {}
        reading: dict[str, object] = {READ_ONLY: True}
        if dialect == "sqlite" and schema is not None:
            engine = engine.execution_options(schema_translate_map={schema: None})
        if dialect == "postgresql":
            at_once = {"isolation_level": "AUTOCOMMIT"}
            reading = {"postgresql_readonly": True}
        # SQLite's driver is already told to leave transactions to us: the first option would
        # undo that.
        self.whole: E = engine
        self.reading: E = engine.execution_options(**reading)
        self.at_once: E = engine.execution_options(**at_once)
        self.reading_at_once: E = self.at_once if at_once else self.reading


def let_go(connection: Connection | None) -> None:
    """End a connection that came from :meth:`Database.apart`, whatever state it is in."""
    if connection is not None:
        with suppress(Exception):
            connection.invalidate()
            connection.close()


def _close_on(loop: asyncio.AbstractEventLoop, engine: AsyncEngine) -> None:
    """Close connections where they live: only their own event loop can."""
    if loop.is_closed():
        engine.sync_engine.dispose(close=False)
    elif loop.is_running():
        asyncio.run_coroutine_threadsafe(engine.dispose(), loop)
    else:
        loop.run_until_complete(engine.dispose())
