"""Statuses in a real database, and in Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mainstay.resources.redis.client import connect
from mainstay.resources.sqlalchemy import Database
from mainstay.resources.sqlalchemy.migrate import upgrade
from mainstay.tasks.celery.statuses import DatabaseStatuses, RedisStatuses
from mainstay.tasks.memory import MemoryStatuses
from mainstay.tasks.status import State, StatusStore, TaskStatus
from mainstay.taskstates import ANY_EPOCH


@pytest.fixture
def in_redis(redis_url: str) -> Iterator[RedisStatuses]:
    client = connect(redis_url)
    yield RedisStatuses(client)
    client.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def statuses(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DatabaseStatuses]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/statuses.db"
    else:
        url = request.getfixturevalue("database_url")
    upgrade(url, say=lambda _line: None)
    database = Database(url=url)
    yield DatabaseStatuses(database)
    database.close()


def test_half_a_surrogate_pair_does_not_make_a_status_unreadable(
    statuses: DatabaseStatuses,
) -> None:
    meta = {"file": "bad \udcff name", "good": "\U0001f600", "long": 2**70}
    statuses.record(TaskStatus(id="1", state=State.STARTED, attempts=1))
    statuses.record(TaskStatus(id="1", state=State.PROGRESS, attempts=1, meta=meta))
    status = statuses.find("1")
    assert status is not None
    assert status.meta == {"file": "bad ? name", "good": "\U0001f600", "long": 2**70}


def test_a_task_that_is_done_may_say_why_its_result_is_not_there(
    statuses: DatabaseStatuses,
) -> None:
    why = {"type": "ResultNotKept", "detail": "it returned a set"}
    statuses.record(TaskStatus(id="1", state=State.SUCCESS, attempts=1, error=why))
    status = statuses.find("1")
    assert status is not None
    assert (status.state, status.result, status.error) == (State.SUCCESS, None, why)


def test_a_fenced_task_that_was_buried_goes_on_when_it_is_put_back(
    statuses: DatabaseStatuses,
) -> None:
    assert statuses.record(TaskStatus(id="1", state=State.STARTED, attempts=1, epoch=2))
    late = TaskStatus(id="1", state=State.FAILURE, attempts=1, epoch=1, error={"type": "Late"})
    assert not statuses.record(late)
    killed = {"type": "time-limit", "detail": "it was still at work"}
    assert statuses.record(TaskStatus(id="1", state=State.FAILURE, epoch=ANY_EPOCH, error=killed))
    assert statuses.record(TaskStatus(id="1", state=State.STARTED, attempts=1, epoch=3))
    status = statuses.find("1")
    assert status is not None
    assert (status.state, status.error) == (State.STARTED, None)


@pytest.mark.parametrize("state", [State.RETRYING, State.PROGRESS])
def test_a_late_word_of_an_earlier_try_changes_nothing(
    statuses: DatabaseStatuses, state: State
) -> None:
    for attempt in (1, 2):
        statuses.record(TaskStatus(id="1", state=State.STARTED, attempts=attempt))
    assert not statuses.record(TaskStatus(id="1", state=state, attempts=1))
    status = statuses.find("1")
    assert status is not None
    assert (status.state, status.attempts) == (State.STARTED, 2)


@pytest.mark.parametrize("sent", [True, False])
def test_the_tries_of_a_task_that_is_done_again_are_counted_anew(
    statuses: DatabaseStatuses, sent: bool
) -> None:
    tried_again(statuses, sent=sent)


@pytest.mark.parametrize("sent", [True, False])
def test_they_are_counted_anew_in_redis_and_in_memory_too(
    in_redis: RedisStatuses, sent: bool
) -> None:
    tried_again(in_redis, sent=sent)
    tried_again(MemoryStatuses(), sent=sent)


def tried_again(kept: StatusStore, *, sent: bool) -> None:
    """Have a task that failed at its third try begun again, sent anew or put back."""
    kept.record(TaskStatus(id="1", state=State.STARTED, attempts=3))
    kept.record(TaskStatus(id="1", state=State.FAILURE, attempts=3))
    if sent:
        assert kept.record(TaskStatus(id="1"))
    assert kept.record(TaskStatus(id="1", state=State.STARTED, attempts=1))
    assert kept.record(TaskStatus(id="1", state=State.RETRYING, attempts=1))
    status = kept.find("1")
    assert status is not None
    assert (status.state, status.attempts) == (State.RETRYING, 1)


@pytest.mark.parametrize(("result", "kept"), [(2**70, 2**70), ({1: "one"}, {"1": "one"})])
def test_whatever_json_can_hold_is_kept_in_redis(
    in_redis: RedisStatuses, result: Any, kept: Any
) -> None:
    in_redis.record(TaskStatus(id="1", state=State.SUCCESS, attempts=1, result=result))
    status = in_redis.find("1")
    assert status is not None
    assert status.result == kept
