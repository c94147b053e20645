"""A caller that waits for a connection gets one, although the connect of another one failed."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.pool import QueuePool
from sqlalchemy.util import await_only, greenlet_spawn

from mainstay.config import Settings
from mainstay.errors import NotConnected
from mainstay.resources.sqlalchemy import Database
from mainstay.resources.sqlalchemy.pools import AsyncPool, Pool
from mainstay.service import Service
from mainstay.testing import async_eventually, eventually

WAIT_SECONDS = 60.0


class Server:
    """Fails the first connect, when somebody else waits for its end; accepts all others."""

    def __init__(self, wait: Callable[[], object]) -> None:
        self.connects = 0
        self._wait = wait

    def connect(self) -> Any:
        return self.connect_by(sqlite3.connect, ":memory:", check_same_thread=False)

    def connect_by(self, connect: Callable[..., Any], *args: Any, **options: Any) -> Any:
        self.connects += 1
        if self.connects == 1:
            self._wait()
            raise OSError("connection refused")
        return connect(*args, **options)

    def stand_before(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the connects of *engine* pass through here."""
        driver: Any = engine.dialect.loaded_dbapi
        monkeypatch.setattr(driver, "connect", partial(self.connect_by, driver.connect))


def watch(pool: QueuePool, is_waiting: Callable[[], object]) -> list[str]:
    """Have *is_waiting* called when a caller is about to wait for a place in *pool*; the list that
    is returned gets an entry for each that has waited in vain.
    """
    queue: Any = pool._pool
    get = queue.get
    in_vain: list[str] = []

    def watched(block: bool = True, timeout: float | None = None) -> object:
        if not block:
            return get(block, timeout)
        is_waiting()
        try:
            return get(block, timeout)
        except Exception as error:
            in_vain.append(repr(error))
            raise

    queue.get = watched
    return in_vain


def test_a_connect_that_fails_lets_a_waiting_caller_connect() -> None:
    is_waiting = threading.Event()
    server = Server(lambda: is_waiting.wait(WAIT_SECONDS))
    pool = Pool(server.connect, pool_size=1, max_overflow=0, timeout=WAIT_SECONDS)
    in_vain = watch(pool, is_waiting.set)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(pool.connect)
        eventually(lambda: server.connects)
        second = threads.submit(pool.connect)
        with pytest.raises(OSError, match="connection refused"):
            first.result()
        second.result().close()
    assert in_vain == []
    assert (server.connects, pool.checkedin()) == (2, 1)
    pool.dispose()


async def test_a_connect_that_fails_lets_a_waiting_caller_of_the_event_loop_connect() -> None:
    is_waiting = asyncio.Event()
    server = Server(lambda: await_only(is_waiting.wait()))
    pool = AsyncPool(server.connect, pool_size=1, max_overflow=0, timeout=WAIT_SECONDS)
    in_vain = watch(pool, is_waiting.set)
    first = asyncio.create_task(greenlet_spawn(pool.connect))
    await async_eventually(lambda: server.connects)
    second = asyncio.create_task(greenlet_spawn(pool.connect))
    with pytest.raises(OSError, match="connection refused"):
        await first
    connection = await second
    await greenlet_spawn(connection.close)
    assert in_vain == []
    assert (server.connects, pool.checkedin()) == (2, 1)
    await greenlet_spawn(pool.dispose)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """A database with one connection, for which a caller waits."""
    settings = Settings(
        env="test",
        database_url=f"sqlite:///{tmp_path / 'test.db'}",
        db_pool_size=1,
        db_max_overflow=0,
        db_pool_timeout_seconds=WAIT_SECONDS,
    )
    return Service(settings).hold(Database())


def test_a_session_that_waits_connects_after_a_connect_that_failed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask() -> int:
        with database.session() as session:
            return int(session.execute(text("select 42")).scalar_one())

    is_waiting = threading.Event()
    server = Server(lambda: is_waiting.wait(WAIT_SECONDS))
    server.stand_before(database.engine, monkeypatch)
    in_vain = watch(cast("QueuePool", database.engine.pool), is_waiting.set)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(ask)
        eventually(lambda: server.connects)
        second = threads.submit(ask)
        with pytest.raises(NotConnected):
            first.result()
        assert second.result() == 42
    assert in_vain == []
    database.close()


async def test_a_session_of_the_event_loop_connects_after_a_connect_that_failed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> int:
        async with database.asession() as session:
            return int((await session.execute(text("select 42"))).scalar_one())

    is_waiting = asyncio.Event()
    server = Server(lambda: await_only(is_waiting.wait()))
    engine = database.async_engine.sync_engine
    server.stand_before(engine, monkeypatch)
    in_vain = watch(cast("QueuePool", engine.pool), is_waiting.set)
    first = asyncio.create_task(ask())
    await async_eventually(lambda: server.connects)
    second = asyncio.create_task(ask())
    with pytest.raises(NotConnected):
        await first
    assert await second == 42
    assert in_vain == []
    await database.aclose()


def test_places_are_not_lost_where_every_connect_fails() -> None:
    def refuse() -> Any:
        raise OSError("connection refused")

    pool = Pool(refuse, pool_size=1, max_overflow=1, timeout=0.01)
    for _ in range(5):
        with pytest.raises(OSError, match="connection refused"):
            pool.connect()
    assert pool.checkedout() == 0
