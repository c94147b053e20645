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
from mainstay.tasks.status import State, TaskStatus
from mainstay.taskstates import ANY_EPOCH


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


@pytest.mark.parametrize(("result", "kept"), [(2**70, 2**70), ({1: "one"}, {"1": "one"})])
def test_whatever_json_can_hold_is_kept_in_redis(redis_url: str, result: Any, kept: Any) -> None:
    client = connect(redis_url)
    statuses = RedisStatuses(client)
    statuses.record(TaskStatus(id="1", state=State.SUCCESS, attempts=1, result=result))
    status = statuses.find("1")
    client.close()
    assert status is not None
    assert status.result == kept
