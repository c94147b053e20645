"""The log of calls keeps how each call ended, and does not hide why."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlmodel import Session
from sqlmodel.ext.asyncio.session import AsyncSession

from data import tasklog
from data.models import TaskLog
from data.settings import Settings
from mainstay import Service
from mainstay.errors import RemoteFailure, Retry
from mainstay.resources.sqlalchemy import Database
from mainstay.testing import async_eventually


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'data.db'}"
    made = Database(url=url, session_class=Session, async_session_class=AsyncSession)
    engine = create_engine(url)
    TaskLog.metadata.create_all(engine, tables=[TaskLog.metadata.tables["task_logs"]])
    engine.dispose()
    service = Service(Settings(env="test"), made)
    monkeypatch.setattr(tasklog, "database", made)
    monkeypatch.setattr(tasklog, "service", service)
    yield made
    service.stop()


def statuses(database: Database) -> list[str]:
    with database.session() as session:
        return list(
            session.scalars(text("select status from task_logs order by created_at, rowid"))
        )


def run(database: Database, work: Coroutine[Any, Any, None]) -> None:
    async def to_its_end() -> None:
        try:
            await work
        finally:
            await database.aclose()

    asyncio.run(to_its_end())


def lose_the_table(database: Database) -> None:
    with database.session() as session:
        session.execute(text("drop table task_logs"))


def fail(database: Database, error: BaseException) -> None:
    with tasklog.logged("1", "async", None):
        lose_the_table(database)
        raise error


async def afail(database: Database, error: BaseException) -> None:
    async with tasklog.alogged("1", "sync", None):
        lose_the_table(database)
        raise error


@pytest.mark.parametrize("error", [RemoteFailure("ValueError", "no"), Retry("later"), KeyError(1)])
@pytest.mark.parametrize("way", ["blocking", "asyncio"])
def test_a_call_that_failed_says_why_also_when_its_end_cannot_be_written(
    database: Database, capfd: pytest.CaptureFixture[str], way: str, error: Exception
) -> None:
    def call() -> None:
        if way == "blocking":
            fail(database, error)
        else:
            run(database, afail(database, error))

    with pytest.raises(type(error)) as raised:
        call()
    assert raised.value is error
    told = [line for line in capfd.readouterr().out.splitlines() if "call_end_not_written" in line]
    assert len(told) == 1
    assert "task_logs" in told[0]


def test_the_end_of_a_call_that_is_cancelled_twice_is_written(database: Database) -> None:
    async def call(begun: asyncio.Event) -> None:
        async with tasklog.alogged("1", "sync", None):
            begun.set()
            await asyncio.Event().wait()

    async def cancel_twice() -> None:
        begun = asyncio.Event()
        task = asyncio.ensure_future(call(begun))
        await begun.wait()
        task.cancel()
        await asyncio.sleep(0)  # the first one has struck, and the end is being written
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await async_eventually(lambda: statuses(database) == ["started", "cancelled"])

    run(database, cancel_twice())


def test_the_end_of_a_call_whose_caller_is_cancelled_as_it_ends_is_written(
    database: Database,
) -> None:
    async def call(ended: asyncio.Event) -> None:
        async with tasklog.alogged("1", "sync", None):
            ended.set()

    async def cancel() -> None:
        ended = asyncio.Event()
        task = asyncio.ensure_future(call(ended))
        await ended.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await async_eventually(lambda: statuses(database) == ["started", "done"])

    run(database, cancel())
