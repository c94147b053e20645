"""What callers hear while PostgreSQL is away, and that it passes by itself."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import event, text

from mainstay.config import Settings
from mainstay.errors import Disconnected, NotConnected, Unavailable
from mainstay.resources.sqlalchemy import Database
from mainstay.service import Service
from mainstay.testing.servers import PostgreSQL
from mainstay.testing.wait import async_eventually
from tests.waiting import PATIENCE_SECONDS


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    made = Database(url=database_url)
    yield made
    await made.aclose()


@pytest_asyncio.fixture
async def hasty(database_url: str) -> AsyncIterator[Database]:
    """A database that is waited for no longer than a test wants to wait."""
    made = Database(url=database_url, statement_timeout_seconds=1.0, lock_timeout_seconds=0.3)
    yield made
    await made.aclose()


def ask(database: Database, statement: str = "select 1") -> None:
    with database.session() as session:
        session.execute(text(statement))


async def aask(database: Database, statement: str = "select 1") -> None:
    async with database.asession() as session:
        await session.execute(text(statement))


async def test_a_server_that_is_stopped_is_told_at_once_and_found_again(
    postgres: PostgreSQL, database: Database
) -> None:
    ask(database)
    await aask(database)
    postgres.stop()
    for _ in range(3):
        with pytest.raises(NotConnected) as refused:
            ask(database)
        assert str(postgres.port) not in str(refused.value)
        with pytest.raises(NotConnected):
            await aask(database)
    with pytest.raises(NotConnected):
        database.ping()
    postgres.start()
    ask(database)  # the first one already: what is stale was found before it was used
    await aask(database)
    assert database.ping() is None


async def test_a_server_that_was_killed_and_came_back_is_not_noticed(
    postgres: PostgreSQL, database: Database
) -> None:
    ask(database)
    await aask(database)
    postgres.kill()
    postgres.start()
    ask(database)
    await aask(database)


async def test_a_server_that_says_nothing_is_given_up(
    postgres: PostgreSQL, database: Database
) -> None:
    ask(database)
    await aask(database)
    postgres.pause()
    try:
        # What is not given up hangs, until the server goes on.
        async with asyncio.timeout(PATIENCE_SECONDS):
            with pytest.raises(NotConnected):
                await asyncio.to_thread(ask, database)  # the connection of the pool
            with pytest.raises(NotConnected):
                await aask(database)
            with pytest.raises(NotConnected):
                await asyncio.to_thread(ask, database)  # a new one
    finally:
        postgres.resume()
    ask(database)
    await aask(database)


async def test_a_paused_server_is_not_waited_for_as_long_as_a_statement_may_take(
    postgres: PostgreSQL, database_url: str
) -> None:
    patient = Database(url=database_url, statement_timeout_seconds=600.0)
    ask(patient)
    slow = [
        asyncio.create_task(aask(patient, "select pg_sleep(500)")),
        asyncio.create_task(asyncio.to_thread(ask, patient, "select pg_sleep(500)")),
    ]
    running = "select count(*) from pg_stat_activity where query like 'select pg_sleep(500)%'"

    async def are_running() -> bool:
        return await asyncio.to_thread(postgres.sql, running) == "2"

    await async_eventually(are_running)
    postgres.pause()
    try:
        ends = await asyncio.wait_for(
            asyncio.gather(*slow, return_exceptions=True), PATIENCE_SECONDS
        )
        assert all(isinstance(end, Unavailable) for end in ends), ends
        # Who comes now need not find out again.
        with pytest.raises(NotConnected):
            ask(patient)
        with pytest.raises(NotConnected):
            await aask(patient)
    finally:
        postgres.resume()
    await aask(patient)
    ask(patient)
    await patient.aclose()


async def test_a_statement_that_takes_long_is_let_alone_while_the_server_answers_others(
    database_url: str,
) -> None:
    patient = Database(url=database_url, statement_timeout_seconds=600.0)
    await asyncio.gather(
        aask(patient, "select pg_sleep(2.5)"),
        asyncio.to_thread(ask, patient, "select pg_sleep(2.5)"),
    )
    await patient.aclose()


async def test_a_statement_that_takes_too_long_is_ended_by_the_server(hasty: Database) -> None:
    with pytest.raises(Unavailable, match="statement in time"):
        ask(hasty, "select pg_sleep(600)")
    with pytest.raises(Unavailable, match="statement in time"):
        await aask(hasty, "select pg_sleep(600)")


async def test_a_lock_that_is_not_granted_is_told(database: Database, hasty: Database) -> None:
    ask(database, "create table t (a int)")
    with database.session() as holding:
        holding.execute(text("lock table t"))
        with pytest.raises(Unavailable, match="lock in time"):
            ask(hasty, "select * from t")
        with pytest.raises(Unavailable, match="lock in time"):
            await aask(hasty, "select * from t")
    ask(database, "select * from t")


async def test_a_database_that_takes_no_writes_is_told(
    postgres: PostgreSQL, database: Database
) -> None:
    ask(database, "create table t (a int)")
    database.ping()
    name = database.url.rpartition("/")[2]
    postgres.sql(f'alter database "{name}" set default_transaction_read_only = on')
    database.close()
    with pytest.raises(Unavailable, match="no writes"):
        ask(database, "insert into t values (1)")
    # Its health says so, and reads go on.
    with pytest.raises(Unavailable, match="accepts no writes"):
        database.ping()
    ask(database, "select * from t")
    postgres.sql(f'alter database "{name}" reset default_transaction_read_only')
    database.close()
    database.ping()
    ask(database, "insert into t values (1)")


def test_a_session_that_was_ended_is_told_and_the_next_one_works(
    postgres: PostgreSQL, database: Database
) -> None:
    def ended() -> None:
        with database.session() as session:
            pid = session.scalar(text("select pg_backend_pid()"))
            postgres.sql(f"select pg_terminate_backend({pid})")
            session.execute(text("select 1"))

    with pytest.raises(Unavailable):
        ended()
    ask(database)


def test_a_connection_that_breaks_while_it_is_being_set_up_was_none(database: Database) -> None:
    @event.listens_for(database.engine, "connect")
    def break_and_ask(connection: psycopg.Connection[Any], _record: object) -> None:
        with socket.socket(fileno=os.dup(connection.fileno())) as raw:
            raw.shutdown(socket.SHUT_RDWR)
        connection.execute("select 1")  # as SQLAlchemy does, to learn what the server can

    with pytest.raises(NotConnected):
        ask(database)
    event.remove(database.engine, "connect", break_and_ask)
    ask(database)


def test_a_session_that_ends_during_the_commit_leaves_the_outcome_unknown(
    postgres: PostgreSQL, database: Database
) -> None:
    ask(database, "create table t (a int)")

    def ended() -> None:
        with database.session() as session:
            session.execute(text("insert into t values (1)"))
            pid = session.scalar(text("select pg_backend_pid()"))
            postgres.sql(f"select pg_terminate_backend({pid})")

    with pytest.raises(Disconnected):
        ended()


async def test_a_password_that_is_refused_is_named_and_not_shown(
    postgres: PostgreSQL, database_url: str
) -> None:
    database = Database(url=database_url.replace(postgres.password, "hunter2"))
    with pytest.raises(NotConnected, match="user or password") as refused:
        ask(database)
    assert "hunter2" not in str(refused.value)
    with pytest.raises(NotConnected, match="user or password"):
        await aask(database)
    await database.aclose()


async def test_a_burst_beyond_the_pool_does_not_lock_up(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All of them at once, on a machine that may be busy: this is not about who waits too long.
    monkeypatch.setattr("mainstay.resources.sqlalchemy.engines.CONNECT_TIMEOUT_SECONDS", 60)
    settings = Settings(
        env="test",
        database_url=database_url,
        db_pool_size=2,
        db_max_overflow=3,
        db_pool_timeout_seconds=PATIENCE_SECONDS,
    )
    database = Service(settings).hold(Database(statement_timeout_seconds=PATIENCE_SECONDS))
    out: list[int] = []
    pool = database.async_engine.sync_engine.pool
    event.listen(pool, "checkout", lambda *_: out.append(pool.checkedout()))  # type: ignore[attr-defined] # of pools that keep connections

    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*(aask(database, "select pg_sleep(0.01)") for _ in range(100)))
    assert (len(out), max(out)) == (100, 5)
    await database.aclose()
