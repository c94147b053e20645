"""A connection that is kept from one statement to the next, and what happens when it breaks."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, text

from mainstay.errors import NotConnected, Retry
from mainstay.resources.sqlalchemy import Database
from mainstay.resources.sqlalchemy.kept import Kept
from mainstay.testing.servers import PostgreSQL
from mainstay.testing.wait import eventually
from tests.waiting import join


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(url=database_url, statement_timeout_seconds=600.0)
    yield made
    made.close()


@pytest.fixture
def kept(database: Database) -> Iterator[Kept]:
    made = Kept(database)
    yield made
    made.close()


def pid(connection: Connection) -> int:
    found: int = connection.execute(text("select pg_backend_pid()")).scalar_one()
    return found


def test_one_connection_serves_them_all(kept: Kept) -> None:
    assert len({kept.run(pid) for _ in range(5)}) == 1


def test_a_session_that_was_ended_is_not_noticed(postgres: PostgreSQL, kept: Kept) -> None:
    first = kept.run(pid)
    postgres.sql(f"select pg_terminate_backend({first})")
    assert kept.run(pid) != first


def test_a_statement_that_fails_spoils_nothing(kept: Kept) -> None:
    first = kept.run(pid)
    with pytest.raises(Exception, match="division by zero"):
        kept.run(lambda connection: connection.execute(text("select 1/0")))
    assert kept.run(pid) == first


def test_a_server_that_is_away_is_told_and_found_again(postgres: PostgreSQL, kept: Kept) -> None:
    kept.run(pid)
    postgres.stop()
    try:
        for _ in range(2):
            with pytest.raises(NotConnected):
                kept.run(pid)
    finally:
        postgres.start()
    assert kept.run(pid)


def test_who_finds_it_in_use_takes_one_of_the_pool(kept: Kept) -> None:
    def both(connection: Connection) -> tuple[int, int]:
        return pid(connection), kept.run(pid)

    own, of_pool = kept.run(both)
    assert own != of_pool


def test_what_may_be_tried_again_is_raised_when_the_connection_is_sound(kept: Kept) -> None:
    with pytest.raises(Retry):
        kept.run(lambda one: one.execute(text("do $$ begin raise lock_not_available; end $$")))


class TimeIsUp(Exception):
    """What a time limit raises in the midst of whatever is done."""


SLEEP = "select pg_sleep(600)"


@contextmanager
def limit(postgres: PostgreSQL) -> Iterator[None]:
    """Interrupt what is done inside once the server is at the statement that sleeps."""

    def interrupt(*_: object) -> None:
        raise TimeIsUp

    def watch() -> None:
        asked = "select query from pg_stat_activity where state = 'active'"
        eventually(lambda: SLEEP in postgres.sql(asked).splitlines())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    former = signal.signal(signal.SIGALRM, interrupt)
    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        join(watching)
        signal.signal(signal.SIGALRM, former)


def test_a_statement_that_is_interrupted_spoils_no_later_one(
    postgres: PostgreSQL, kept: Kept
) -> None:
    first = kept.run(pid)
    with pytest.raises(TimeIsUp), limit(postgres):
        kept.run(lambda connection: connection.execute(text(SLEEP)))
    assert kept.run(pid) != first


def test_a_session_that_is_interrupted_says_so_and_spoils_no_later_one(
    postgres: PostgreSQL, database: Database
) -> None:
    with pytest.raises(TimeIsUp), limit(postgres), database.session() as session:
        session.execute(text(SLEEP))
    with database.session() as session:
        assert session.execute(text("select 1")).scalar_one() == 1
