from __future__ import annotations

import asyncio
import multiprocessing
import threading
from pathlib import Path

import pytest
from sqlalchemy import Column, MetaData, Table, select, text
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, SQLModel, col

from mainstay.config import Settings
from mainstay.errors import Misconfigured, NotConnected, Overloaded, Unavailable
from mainstay.resources.sqlalchemy import Database, migrate
from mainstay.service import Service
from tests.waiting import PATIENCE_SECONDS


class Note(SQLModel, table=True):
    __tablename__ = "database_notes"

    id: int | None = Field(default=None, primary_key=True)
    text: str


@pytest.fixture(autouse=True)
def notes(database: Database) -> None:
    with database.session() as session:
        session.execute(
            text("create table database_notes (id integer primary key, text varchar unique)")
        )


def texts(database: Database) -> list[str]:
    with database.session(read_only=True) as session:
        return list(session.scalars(select(col(Note.text)).order_by(col(Note.text))))


def test_a_unit_of_work_is_committed_at_its_end(database: Database) -> None:
    with database.session() as session:
        note = Note(text="one")
        session.add(note)
    assert texts(database) == ["one"]
    assert note.id == 1  # readable after the commit


def test_a_unit_of_work_is_rolled_back_on_any_error(database: Database) -> None:
    def work() -> None:
        with database.session() as session:
            session.add(Note(text="one"))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert texts(database) == []


def test_a_broken_constraint_is_told_as_it_is(database: Database) -> None:
    with pytest.raises(IntegrityError), database.session() as session:
        session.add_all([Note(text="same"), Note(text="same")])
    assert texts(database) == []


async def test_asyncio_has_the_same_unit_of_work_and_the_same_queries(database: Database) -> None:
    async def fail() -> None:
        async with database.asession() as session:
            session.add(Note(text="two"))
            await session.flush()
            raise ZeroDivisionError

    async with database.asession() as session:
        session.add(Note(text="one"))
    with pytest.raises(ZeroDivisionError):
        await fail()
    async with database.asession(read_only=True) as session:
        assert list(await session.scalars(select(col(Note.text)))) == ["one"]


async def test_a_unit_of_work_that_is_cancelled_is_rolled_back(database: Database) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with database.asession() as session:
            session.add(Note(text="one"))
            await session.flush()
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert texts(database) == []
    async with database.asession() as session:  # and its lock is free
        session.add(Note(text="two"))


def test_no_connection_is_taken_before_the_first_statement(tmp_path: Path) -> None:
    path = tmp_path / "never.db"
    with Database(url=f"sqlite:///{path}").session():
        pass
    assert not path.exists()


def test_any_driver_may_be_named() -> None:
    database = Database(url="postgres+psycopg2://ann:pw@db/orders")
    assert database.url == "postgresql+psycopg://ann:pw@db/orders"
    assert database.async_url == "postgresql+asyncpg://ann:pw@db/orders"


def test_the_settings_name_the_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'named.db'}"
    service = Service(Settings(env="test", database_url=url), Database())
    database = service.resource(Database)
    assert database.is_named
    assert database.url == url
    with database.session() as session:
        assert session.scalar(text("select 1")) == 1
    service.stop()


def test_a_database_that_nobody_names_is_named_as_what_is_missing() -> None:
    database = Service(Settings(env="test")).hold(Database())
    assert not database.is_named
    with pytest.raises(Misconfigured, match="DATABASE_URL"):
        _ = database.engine


def test_a_writer_that_waits_too_long_is_told_to_come_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'busy.db'}"
    first = Database(url=url)
    second = Database(url=url, lock_timeout_seconds=0.05)
    with first.session() as held:
        held.execute(text("create table t (a int)"))
        with (
            pytest.raises(Unavailable, match="lock") as refused,
            second.session() as waiting,
        ):
            waiting.execute(text("select 1"))
        assert "busy.db" not in str(refused.value)
        with second.session(read_only=True) as reading:  # who only reads waits for nobody
            reading.execute(text("select 1"))
    first.close()
    second.close()


def test_a_pool_that_is_used_up_refuses_in_time(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'pool.db'}"
    settings = Settings(
        env="test", database_url=url, db_pool_size=1, db_max_overflow=0, db_pool_timeout_seconds=0.1
    )
    database = Service(settings).hold(Database())
    with database.session(read_only=True) as held:
        held.execute(text("select 1"))
        with pytest.raises(Overloaded), database.session(read_only=True) as waiting:
            waiting.execute(text("select 1"))
        assert database.ping() is None  # health asks on a connection of its own
    database.close()


async def test_an_asyncio_pool_that_is_used_up_refuses_in_time(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'pool.db'}"
    settings = Settings(
        env="test", database_url=url, db_pool_size=1, db_max_overflow=0, db_pool_timeout_seconds=0.1
    )
    database = Service(settings).hold(Database())
    async with database.asession(read_only=True) as held:
        await held.execute(text("select 1"))
        with pytest.raises(Overloaded):
            async with database.asession(read_only=True) as waiting:
                await waiting.execute(text("select 1"))
    await database.aclose()


def test_a_file_that_cannot_be_opened_is_no_connection() -> None:
    database = Database(url="sqlite:////nowhere/at/all.db")
    with pytest.raises(NotConnected), database.session() as session:
        session.execute(text("select 1"))


async def test_each_event_loop_has_an_engine_of_its_own(database: Database) -> None:
    here = database.async_engine
    assert database.async_engine is here
    elsewhere: list[object] = []

    async def other() -> None:
        elsewhere.append(database.async_engine)
        async with database.asession() as session:
            session.add(Note(text="elsewhere"))
        await database.async_engine.dispose()

    thread = threading.Thread(target=lambda: asyncio.run(other()))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert elsewhere != [here]
    assert texts(database) == ["elsewhere"]


async def test_a_database_can_be_closed_twice_and_used_again(database: Database) -> None:
    async with database.asession() as session:
        session.add(Note(text="one"))
    await database.aclose()
    await database.aclose()
    database.close()
    assert texts(database) == ["one"]


def _write_in_child(database: Database, parents: int, report: object) -> None:
    with database.session() as session:
        session.add(Note(text="child"))
    report.put(id(database.engine) != parents)  # type: ignore[attr-defined] # a queue


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_takes_nothing_of_its_parent(database: Database) -> None:
    with database.session() as session:
        session.add(Note(text="parent"))
    processes = multiprocessing.get_context("fork")
    report = processes.SimpleQueue()
    child = processes.Process(target=_write_in_child, args=(database, id(database.engine), report))
    child.start()
    child.join(PATIENCE_SECONDS)
    assert child.exitcode == 0
    assert report.get()
    assert texts(database) == ["child", "parent"]


def test_a_service_is_not_ready_before_its_schema_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path / 'new.db'}"
    service = Service(Settings(env="test", database_url=url), Database())
    (check,) = service.resource(Database).readiness()
    with pytest.raises(Unavailable, match="mainstay db upgrade"):
        check.ping()
    service.lifecycle.started()
    assert service.health.ready().checks["schema"]["status"] == "unhealthy"
    migrate.upgrade(url, say=lambda line: None)
    assert check.ping() is None
    service.stop()


def test_one_event_loop_after_the_other_collects_no_engines(database: Database) -> None:
    async def once() -> None:
        async with database.asession(read_only=True) as session:
            await session.execute(text("select 1"))
        await database.async_engine.dispose()

    for _ in range(3):
        asyncio.run(once())
    assert len(database._open.async_views) == 1


async def test_tables_of_a_schema_have_none_on_sqlite(database: Database) -> None:
    notes = Table("database_notes", MetaData(schema="tbc"), Column("text"))
    within = Database(url=database.url, schema="tbc")
    with within.session() as session:
        session.execute(notes.insert().values(text="one"))
    assert texts(database) == ["one"]
    async with within.asession(read_only=True) as session:
        assert await session.scalar(select(notes.c.text)) == "one"
    await within.aclose()
