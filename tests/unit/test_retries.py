from __future__ import annotations

import sqlite3

import kombu.exceptions
import pytest
import redis
import sqlalchemy.exc

from mainstay.errors import Bury, DeadlineExceeded, Invalid, LimitExceeded, Unavailable
from mainstay.retries import Backoff, BuryAs, RetryIn, decide, is_transient


def sql_error(cause: Exception) -> sqlalchemy.exc.OperationalError:
    return sqlalchemy.exc.OperationalError("select 1", None, cause)


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("down"),
        DeadlineExceeded("late"),
        ConnectionResetError(),
        TimeoutError(),
        redis.ConnectionError(),
        redis.TimeoutError(),
        kombu.exceptions.OperationalError(),
        sqlalchemy.exc.TimeoutError(),
        sql_error(Exception("server closed the connection")),
        sql_error(sqlite3.OperationalError("database is locked")),
    ],
)
def test_what_is_about_a_server_or_a_lock_passes(error: Exception) -> None:
    assert is_transient(error)
    assert isinstance(decide(error, 1), RetryIn)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("x"), "failed:ValueError"),
        (KeyError("x"), "failed:KeyError"),
        (OSError("disk"), "failed:OSError"),
        (Invalid("x"), "refused:Invalid"),
        (Bury("x"), "failed:Bury"),
        (redis.ResponseError("WRONGTYPE"), "failed:ResponseError"),
        (sql_error(sqlite3.OperationalError("no such table: x")), "failed:OperationalError"),
    ],
)
def test_what_is_about_the_work_is_buried_at_once(error: Exception, reason: str) -> None:
    assert decide(error, 1) == BuryAs(reason)


def test_the_last_try_is_the_last() -> None:
    backoff = Backoff(attempts=3)
    assert isinstance(decide(Unavailable("x"), 2, backoff), RetryIn)
    assert decide(Unavailable("x"), 3, backoff) == BuryAs("refused:Unavailable")


def test_pauses_grow_to_a_ceiling_and_are_spread() -> None:
    backoff = Backoff(initial_seconds=1, factor=2, max_seconds=10)
    assert [backoff.ceiling_seconds(n) for n in (1, 2, 3, 4, 5, 1_000_000)] == [1, 2, 4, 8, 10, 10]
    assert backoff.pause_seconds(3, chance=lambda: 0.0) == 2
    assert backoff.pause_seconds(3, chance=lambda: 1.0) == 4


def test_what_the_server_asks_for_is_waited_at_least_and_spread_too() -> None:
    error = LimitExceeded("x", retry_after_seconds=30, limit=1, window_seconds=60)
    backoff = Backoff(initial_seconds=1)
    assert decide(error, 1, backoff, chance=lambda: 0.0) == RetryIn(30)
    assert decide(error, 1, backoff, chance=lambda: 1.0) == RetryIn(30.5)


def test_the_default_bridges_an_outage_of_ten_minutes() -> None:
    backoff = Backoff()
    total = sum(backoff.pause_seconds(n, chance=lambda: 0.5) for n in range(1, backoff.attempts))
    assert total > 600
