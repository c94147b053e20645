"""What is delivered twice has one effect: on every kind of database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
from sqlalchemy import text

from mainstay.errors import AlreadyDone, Fenced
from mainstay.resources.sqlalchemy import Database, inbox
from mainstay.testing.wait import eventually
from tests.waiting import join


@pytest.fixture(autouse=True)
def effects(database: Database) -> None:
    with database.session() as session:
        session.execute(text("create table effects (worker varchar(32))"))


def count(database: Database) -> int:
    with database.session(read_only=True) as session:
        return int(session.scalar(text("select count(*) from effects")) or 0)


def deliver(database: Database, id: str = "m1") -> None:
    with database.session() as session:
        inbox.once(session, id)
        session.execute(text("insert into effects values ('one')"))


def test_a_second_delivery_is_already_done(database: Database) -> None:
    deliver(database)
    with pytest.raises(AlreadyDone):
        deliver(database)
    deliver(database, "m2")
    assert count(database) == 2


def test_work_that_failed_is_done_by_the_next_delivery(database: Database) -> None:
    def fail() -> None:
        with database.session() as session:
            inbox.once(session, "m1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    deliver(database)
    assert count(database) == 1


def test_a_twin_waits_and_is_then_already_done(database: Database) -> None:
    ends: list[str] = []

    def twin() -> None:
        try:
            deliver(database)
            ends.append("done")
        except AlreadyDone:
            ends.append("already done")

    with database.session() as session:
        inbox.once(session, "m1")
        session.execute(text("insert into effects values ('first')"))
        thread = threading.Thread(target=twin)
        thread.start()
    join(thread)
    assert ends == ["already done"]
    assert count(database) == 1


def test_work_inside_deduplicated_is_done_once(database: Database) -> None:
    def work() -> None:
        with database.session() as session, inbox.deduplicated(session, "m1"):
            session.execute(text("insert into effects values ('one')"))

    work()
    with pytest.raises(AlreadyDone):
        work()
    assert count(database) == 1


async def test_asyncio_does_the_same(database: Database) -> None:
    async def work() -> None:
        async with database.asession() as session, inbox.adeduplicated(session, "m1"):
            await session.execute(text("insert into effects values ('one')"))

    async def plain() -> None:
        async with database.asession() as session:
            await inbox.aonce(session, "m1")

    await work()
    for again in (work, plain):
        with pytest.raises(AlreadyDone):
            await again()
    assert count(database) == 1


def test_the_newest_delivery_fences_off_the_older(database: Database) -> None:
    old = inbox.claim(database, "m1")
    with database.session() as session:  # it may commit as long as nobody else has it
        inbox.hold(session, "m1", old)
        session.execute(text("insert into effects values ('old')"))
    new = inbox.claim(database, "m1")
    assert new > old

    def go_on() -> None:
        with database.session() as session:
            session.execute(text("insert into effects values ('old again')"))
            inbox.hold(session, "m1", old)

    def end() -> None:
        with database.session() as session:
            session.execute(text("insert into effects values ('old again')"))
            inbox.finish(session, "m1", old)

    with pytest.raises(Fenced):
        go_on()
    with pytest.raises(Fenced):
        end()
    with database.session() as session:
        inbox.finish(session, "m1", new)
    with pytest.raises(AlreadyDone):
        inbox.claim(database, "m1")
    assert count(database) == 1


async def test_asyncio_claims_and_is_fenced_off_too(database: Database) -> None:
    old = await inbox.aclaim(database, "m1")
    new = await inbox.aclaim(database, "m1")

    async def end(epoch: int) -> None:
        async with database.asession() as session:
            await inbox.ahold(session, "m1", epoch)
            await inbox.afinish(session, "m1", epoch)

    with pytest.raises(Fenced):
        await end(old)
    await end(new)
    with pytest.raises(AlreadyDone):
        await inbox.aclaim(database, "m1")


def test_each_commit_of_fenced_work_shows_its_claim(database: Database) -> None:
    def work(epoch: int, between: Callable[[], object] = lambda: None) -> None:
        with database.session() as session, inbox.fenced(session, "m1", epoch):
            if inbox.first_time(session, "one"):
                session.execute(text("insert into effects values ('one')"))
                session.commit()
            between()
            if inbox.first_time(session, "two"):
                session.execute(text("insert into effects values ('two')"))
                session.commit()
            session.execute(text("insert into effects values ('last')"))

    heir: list[int] = []
    orphan = inbox.claim(database, "m1")
    with pytest.raises(Fenced) as fenced:
        work(orphan, lambda: heir.append(inbox.claim(database, "m1")))
    assert fenced.value.work == "m1"
    assert inbox.is_taken_over(database, "m1", orphan)
    assert not inbox.is_taken_over(database, "m1", heir[0])
    assert count(database) == 1
    work(heir[0])
    with pytest.raises(AlreadyDone) as done:
        inbox.claim(database, "m1")
    assert done.value.work == "m1"
    assert count(database) == 3


def test_an_owner_that_swallows_the_fence_commits_nothing_either(database: Database) -> None:
    orphan = inbox.claim(database, "m1")
    inbox.claim(database, "m1")

    def work() -> None:
        with database.session() as session, inbox.fenced(session, "m1", orphan):
            for _ in range(2):
                session.execute(text("insert into effects values ('one')"))
                with suppress(Fenced):
                    session.commit()

    with pytest.raises(Fenced):
        work()
    assert count(database) == 0


def test_steps_are_of_fenced_work_alone(database: Database) -> None:
    with database.session() as session, pytest.raises(LookupError, match="fenced=True"):
        inbox.first_time(session, "one")


def test_parts_with_colons_identify_no_other_work() -> None:
    works = [("a", "b:c"), ("a:b", "c"), ("a", "b", "c"), ("a", "b%3Ac"), ("a:b:c",)]
    assert len({inbox.identity("step", *parts) for parts in works}) == len(works)
    assert inbox.identity("task", "4e1c-9a") == "task:4e1c-9a"


def test_an_id_of_any_length_identifies_work(database: Database) -> None:
    long = inbox.identity("task", "x" * 255)
    assert long != inbox.identity("task", "x" * 254)
    with database.session() as session:
        inbox.once(session, long)
    with database.session() as session, pytest.raises(AlreadyDone):
        inbox.once(session, long)


def test_old_rows_are_purged(database: Database) -> None:
    deliver(database)
    assert inbox.purge(database, older_than_seconds=3600) == 0
    assert eventually(lambda: inbox.purge(database, older_than_seconds=0)) == 1
    deliver(database)
