"""What became of a task never moves backwards: on every kind of database."""

from __future__ import annotations

import pytest

from mainstay.errors import Invalid
from mainstay.resources.sqlalchemy import Database
from mainstay.resources.sqlalchemy.status import TaskRecord, TaskStatuses
from mainstay.taskstates import State
from mainstay.testing.wait import eventually


@pytest.fixture
def status(database: Database) -> TaskStatuses:
    return TaskStatuses(database)


def found(status: TaskStatuses, task_id: str = "t1") -> TaskRecord:
    record = status.get(task_id)
    assert record is not None
    return record


def test_an_id_that_was_never_issued_is_not_known(status: TaskStatuses) -> None:
    assert status.get("t1") is None


def test_a_task_is_accepted_with_the_transaction_that_accepts_it(
    database: Database, status: TaskStatuses
) -> None:
    def refuse() -> None:
        with database.session() as session:
            status.accepted(session, "t1", "orders.ship", "orders")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        refuse()
    assert status.get("t1") is None
    with database.session() as session:
        assert status.accepted(session, "t1", "orders.ship", "orders", correlation_id="c1")
    record = found(status)
    assert (record.name, record.queue, record.correlation_id) == ("orders.ship", "orders", "c1")
    assert (record.state, record.attempts, record.started_at) == (State.WAITING, 0, None)


async def test_asyncio_accepts_and_reads_too(database: Database, status: TaskStatuses) -> None:
    async with database.asession() as session:
        assert await status.aaccepted(session, "t1", "orders.ship", "orders")
    assert not await status.aaccepted(None, "t1", "other", "other")
    record = await status.aget("t1")
    assert record is not None
    assert record.name == "orders.ship"
    assert [each.task_id for each in (await status.alist()).items] == ["t1"]


def test_a_task_lives_from_waiting_to_its_end(status: TaskStatuses) -> None:
    status.accepted(None, "t1", "orders.ship", "orders", correlation_id="c1")
    assert status.started("t1", attempt=1, worker="w1")
    assert status.progress("t1", {"current": 1, "total": 2}, attempt=1)
    assert status.retrying("t1", error={"type": "Timeout", "detail": "late"}, attempt=1)
    assert found(status).state is State.RETRYING
    assert status.started("t1", attempt=2, worker="w2")
    assert status.succeeded("t1", {"sum": [1, None, "\u0000"]})
    record = found(status)
    assert record.state.is_final
    assert record.result == {"sum": [1, None, "\u0000"]}
    assert record.progress == {"current": 1, "total": 2}
    assert (record.error, record.attempts, record.worker) == (None, 2, "w2")
    assert record.finished_at is not None
    assert record.started_at is not None
    assert record.created_at <= record.started_at <= record.finished_at <= record.updated_at


def test_a_task_that_nobody_accepted_is_known_from_its_start(status: TaskStatuses) -> None:
    assert status.started("t1", name="orders.ship", queue="orders")
    assert not status.accepted(None, "t1", "orders.ship", "orders")
    assert found(status).state is State.STARTED


@pytest.mark.parametrize("end", ["succeeded", "failed", "revoked"])
def test_an_end_is_the_end(status: TaskStatuses, end: str) -> None:
    if end == "succeeded":
        status.succeeded("t1", 1)
    elif end == "failed":
        status.failed("t1", {"type": "ValueError", "detail": "no"})
    else:
        status.revoked("t1")
    before = found(status)
    assert not status.started("t1", attempt=9)
    assert not status.progress("t1", {"current": 1})
    assert not status.succeeded("t1", 2)
    assert not status.failed("t1", {})
    assert found(status) == before


def test_a_report_of_an_older_attempt_changes_nothing(status: TaskStatuses) -> None:
    status.started("t1", attempt=2)
    assert not status.started("t1", attempt=1)
    assert not status.retrying("t1", attempt=1)
    assert found(status).state is State.STARTED
    status.retrying("t1", attempt=2)
    assert not status.progress("t1", {"current": 1}, attempt=2)


def test_a_report_of_an_older_delivery_changes_nothing(status: TaskStatuses) -> None:
    status.started("t1", epoch=2)
    assert not status.succeeded("t1", "old", epoch=1)
    assert status.succeeded("t1", "new", epoch=2)
    assert found(status).result == "new"


def test_a_failed_task_that_is_sent_again_waits_as_at_first(status: TaskStatuses) -> None:
    status.started("t1", attempt=3)
    status.failed("t1", {"type": "ValueError"})
    assert status.reopened("t1")
    record = found(status)
    assert (record.state, record.error, record.finished_at) == (State.WAITING, None, None)
    assert status.started("t1", attempt=1)
    status.succeeded("t1")
    assert not status.reopened("t1")


def test_a_task_that_was_not_sent_after_all_is_forgotten(status: TaskStatuses) -> None:
    status.accepted(None, "t1", "a", "q")
    assert status.forget("t1")
    assert status.get("t1") is None


def test_an_end_is_undone_with_its_effect(database: Database, status: TaskStatuses) -> None:
    def fail() -> None:
        with database.session() as session:
            status.succeeded("t1", session=session)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert status.get("t1") is None


def test_pages_go_through_all_tasks_newest_first(status: TaskStatuses) -> None:
    for number in range(7):
        status.accepted(None, f"t{number}", "a", "q")
    seen: list[str] = []
    cursor = None
    while True:
        page = status.list(limit=3, cursor=cursor)
        seen += [each.task_id for each in page.items]
        if page.next_cursor is None:
            break
        cursor = page.next_cursor
    assert len(seen) == len(set(seen)) == 7
    moments = [found(status, task_id).created_at for task_id in seen]
    assert moments == sorted(moments, reverse=True)


def test_a_page_can_be_of_one_state(status: TaskStatuses) -> None:
    status.accepted(None, "t1", "a", "q")
    status.failed("t2", {})
    assert [each.task_id for each in status.list(state=State.FAILURE).items] == ["t2"]


@pytest.mark.parametrize(
    ("limit", "cursor", "pointer"),
    [(0, None, "/limit"), (501, None, "/limit"), (5, "%%%", "/cursor"), (5, "W10", "/cursor")],
)
def test_a_page_that_cannot_be_is_refused(
    status: TaskStatuses, limit: int, cursor: str | None, pointer: str
) -> None:
    with pytest.raises(Invalid) as refused:
        status.list(limit=limit, cursor=cursor)
    assert [each.pointer for each in refused.value.errors] == [pointer]


def test_tasks_that_ended_long_ago_are_purged(status: TaskStatuses) -> None:
    status.started("running")
    status.succeeded("done")
    assert status.purge(older_than_seconds=3600) == 0
    assert eventually(lambda: status.purge(older_than_seconds=0)) == 1
    assert status.get("done") is None
    assert found(status, "running").state is State.STARTED
