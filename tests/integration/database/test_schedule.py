"""A tick is taken once, on every kind of database."""

from __future__ import annotations

import threading
from datetime import timedelta

from mainstay.resources.sqlalchemy import Database, schedule
from tests.waiting import PATIENCE_SECONDS, join


def test_an_entry_that_is_new_has_ticked_now_and_stays_so(database: Database) -> None:
    with database.autocommit() as connection:
        now, ticked = schedule.read(connection, ["a", "b"])
        assert ticked.keys() == {"a", "b"}
        assert abs(now - ticked["a"]) < timedelta(hours=1)
        again, same = schedule.read(connection, ["a"])
    assert again >= now
    assert same == {"a": ticked["a"]}


def test_of_all_who_take_a_tick_at_once_one_has_it(database: Database) -> None:
    with database.autocommit() as connection:
        _now, ticked = schedule.read(connection, ["a"])
    last, tick = ticked["a"], ticked["a"] + timedelta(seconds=1.5)
    taken: list[bool] = []
    barrier = threading.Barrier(4)

    def take() -> None:
        barrier.wait(PATIENCE_SECONDS)
        with database.session() as session:
            taken.append(schedule.move(session.connection(), "a", last, tick))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    join(*threads)
    assert sorted(taken) == [False, False, False, True]
    with database.autocommit() as connection:
        assert schedule.read(connection, ["a"])[1] == {"a": tick}


def test_a_tick_that_is_rolled_back_is_there_to_be_taken(database: Database) -> None:
    with database.autocommit() as connection:
        _now, ticked = schedule.read(connection, ["a"])
    last, tick = ticked["a"], ticked["a"] + timedelta(hours=1)
    with database.session() as session:
        assert schedule.move(session.connection(), "a", last, tick)
        session.rollback()
    with database.session() as session:
        assert schedule.move(session.connection(), "a", last, tick)
