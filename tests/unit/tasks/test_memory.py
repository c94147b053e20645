from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from mainstay.errors import AlreadyDone, Invalid, Misconfigured
from mainstay.resources.sqlalchemy import Database, first_time
from mainstay.resources.sqlalchemy.migrate import upgrade
from mainstay.tasks.memory import MemoryTasks
from mainstay.tasks.status import State


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/effects.db"
    upgrade(url, say=lambda _line: None)
    made = Database(url=url)
    with made.session() as session:
        session.execute(text("create table effects (name varchar(32))"))
    yield made
    made.close()


def write(session: Session, name: str) -> None:
    session.execute(text("insert into effects values (:name)"), {"name": name})


def effects(database: Database) -> list[str]:
    with database.session(read_only=True) as session:
        return list(session.scalars(text("select name from effects order by name")))


def test_nothing_runs_before_it_is_told_to() -> None:
    room = MemoryTasks()
    done: list[int] = []
    room.task(done.append, name="note")
    id = room.send("note", 1)
    status = room.status(id)
    assert status is not None
    assert (status.state, done) == (State.WAITING, [])
    assert room.run() == 1
    assert done == [1]


def test_a_pause_is_over_when_the_clock_says_so() -> None:
    now = [100.0]
    room = MemoryTasks(clock=lambda: now[0])
    tries: list[int] = []

    @room.task
    def flaky() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError
        return "ok"

    id = room.send("flaky")
    room.run()
    status = room.status(id)
    assert status is not None
    assert status.state is State.RETRYING
    assert room.run() == 0
    assert room.next_due is not None
    now[0] = room.next_due
    assert room.run() == 1
    status = room.status(id)
    assert status is not None
    assert (status.result, status.attempts) == ("ok", 2)


def test_arguments_that_json_cannot_hold_are_refused() -> None:
    room = MemoryTasks()
    room.task(print)
    with pytest.raises(Invalid, match="JSON cannot hold"):
        room.send("print", object())


def test_a_task_with_once_that_is_delivered_twice_has_one_effect(database: Database) -> None:
    room = MemoryTasks(database=database)

    @room.task(once=True)
    def store(name: str, *, session: Session) -> str:
        write(session, name)
        return name

    for _ in range(2):
        id = room.send("store", "a", task_id="one")
    assert room.run() == 2
    status = room.status(id)
    assert status is not None
    assert (status.state, status.result, room.dead) == (State.SUCCESS, "a", [])
    assert effects(database) == ["a"]


def test_a_fenced_task_that_was_taken_over_ends_without_a_word(database: Database) -> None:
    room = MemoryTasks(database=database)
    deliveries: list[str] = []

    @room.task(fenced=True)
    def store(*, session: Session) -> int:
        if first_time(session, "first"):
            write(session, "first")
            session.commit()
        deliveries.append("one")
        mine = len(deliveries)
        if mine == 1:  # another worker is given it, and is quicker
            room.send("store", task_id="one")
            room.run()
        write(session, "second")
        return mine

    id = room.send("store", task_id="one")
    room.run()
    status = room.status(id)
    assert status is not None
    assert (status.state, status.result, status.error) == (State.SUCCESS, 2, None)
    assert (len(deliveries), room.dead) == (2, [])
    assert effects(database) == ["first", "second"]


def test_one_that_was_taken_over_and_fails_is_no_failure(database: Database) -> None:
    room = MemoryTasks(database=database)

    @room.task(fenced=True)
    def store(*, session: Session) -> None:
        if first_time(session, "first"):
            session.commit()
            room.send("store", task_id="one")
            room.run()
            raise ValueError("the other has changed what this one had read")

    id = room.send("store", task_id="one")
    room.run()
    status = room.status(id)
    assert status is not None
    assert (status.state, room.dead) == (State.SUCCESS, [])


def test_a_step_that_was_done_stays_done_when_the_task_is_tried_again(database: Database) -> None:
    now = [0.0]
    room = MemoryTasks(database=database, clock=lambda: now[0])

    @room.task(fenced=True)
    def store(*, session: Session) -> None:
        if first_time(session, "first"):
            write(session, "first")
            session.commit()
            raise ConnectionError
        write(session, "second")

    room.send("store")
    room.run()
    now[0] = room.next_due or 0.0
    room.run()
    assert effects(database) == ["first", "second"]


def test_what_was_done_elsewhere_is_no_end_of_this_task() -> None:
    room = MemoryTasks()

    @room.task
    def ask() -> None:
        raise AlreadyDone("another service did it before")

    id = room.send("ask")
    room.run()
    status = room.status(id)
    assert status is not None
    assert status.state is State.FAILURE
    assert [letter.reason for letter in room.dead] == ["refused:AlreadyDone"]


def test_a_session_comes_from_a_database(database: Database) -> None:
    room = MemoryTasks()
    with pytest.raises(Misconfigured, match="fenced=True needs a parameter `session`"):
        room.task(print, fenced=True)
    room.task(write, name="write")
    id = room.send("write", "a")
    room.run()
    status = room.status(id)
    assert status is not None
    assert status.error is not None
    assert "database=Database" in status.error["detail"]


def test_a_task_leaves_with_a_commit_and_not_with_a_rollback(database: Database) -> None:
    room = MemoryTasks()
    room.task(abs, name="abs")
    with database.session() as session:
        session.execute(text("select 1"))
        undone = room.send("abs", -1, session=session)
        session.rollback()
        session.execute(text("select 1"))
        kept = room.send("abs", -2, session=session)
        assert room.status(kept) is None
    assert room.run() == 1
    assert room.status(undone) is None
    status = room.status(kept)
    assert status is not None
    assert status.result == 2


def test_a_task_of_a_savepoint_leaves_when_all_around_it_has_committed(database: Database) -> None:
    room = MemoryTasks()
    room.task(abs, name="abs")
    with database.session() as session:
        before = room.send("abs", -1, session=session)
        with session.begin_nested(), session.begin_nested():
            kept = room.send("abs", -2, session=session)
        with session.begin_nested() as savepoint:
            with session.begin_nested():
                within = room.send("abs", -3, session=session)
            undone = room.send("abs", -4, session=session)
            savepoint.rollback()
        assert room.status(before) is room.status(kept) is None
    assert room.run() == 2
    assert room.status(before) is not None
    assert room.status(kept) is not None
    assert room.status(within) is room.status(undone) is None


def test_a_task_of_a_savepoint_is_undone_with_all_around_it(database: Database) -> None:
    room = MemoryTasks()
    room.task(abs, name="abs")
    with Session(database.engine) as session:
        with session.begin_nested():
            room.send("abs", -1, session=session)
        session.rollback()
        with session.begin_nested():
            room.send("abs", -2, session=session)
        session.close()  # which rolls back too, and says nothing of it
        session.commit()
    assert room.run() == 0
