"""Rows that show whether a task is lost: the tasks that have not ended, and the markers that went
through their queues.

All moments are the server's. See :mod:`mainstay.tasks.celery.reconciler` for the rule.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import orjson
from sqlalchemy import (
    Connection,
    TextClause,
    delete,
    exists,
    func,
    insert,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.orm import Session

from mainstay.resources.sqlalchemy import tables
from mainstay.resources.sqlalchemy.statements import Statement

__all__ = [
    "LostTask",
    "Marker",
    "add",
    "adopt",
    "among",
    "forget",
    "hold",
    "is_any",
    "lose",
    "markers",
    "note_outbox",
    "queues",
    "take",
]

_AT_A_TIME = 1_000
_AT_ONCE = datetime(1, 1, 1, tzinfo=UTC)
_SOON = timedelta(minutes=1)

# A row that is locked now is being updated by its task: the next turn holds it.
_HOLD = Statement(
    """
    update {task_status} set accounted_at = {now}
    where task_id in (
        select task_id from {task_status}
        where task_id in ({ids}) and finished_at is null
          and accounted_at < :before+seconds {skip_locked})
    returning 1
    """
)


@dataclass(frozen=True, slots=True)
class Marker:
    """A message that was put into a queue behind all that was in it.

    Args:
        sent_at: A moment before it was.
        taken_at: A moment after a worker took it; ``None`` until then.
    """

    id: str
    sent_at: datetime
    taken_at: datetime | None


@dataclass(frozen=True, slots=True)
class LostTask:
    """A task that is lost now, and what was known of it before."""

    id: str
    name: str
    queue: str
    state: str


def queues(connection: Connection) -> list[str]:
    """Return the queues of the tasks that have not ended: one look into an index for each."""
    status = tables.table("task_status", connection.dialect.name)
    found: list[str] = []
    while True:
        last = found[-1] if found else ""
        query = select(func.min(status.c.queue)).where(status.c.queue > last, _is_open())
        queue = connection.execute(query).scalar_one()
        if queue is None:
            return found
        found.append(queue)


def adopt(connection: Connection, queue: str) -> None:
    """Begin to watch what a process of an older version has accepted."""
    status = tables.table("task_status", connection.dialect.name)
    rows = select(status.c.task_id).where(
        status.c.queue == queue, status.c.accounted_at.is_(None), _is_open()
    )
    connection.execute(
        update(status)
        .where(status.c.task_id.in_(rows.limit(_AT_A_TIME)))
        .values(accounted_at=status.c.updated_at)
    )


def is_any(connection: Connection, queue: str, *, after: datetime | None, until: datetime) -> bool:
    """Is there a task of *queue* that was last accounted for in that time?"""
    status = tables.table("task_status", connection.dialect.name)
    rows = select(status.c.task_id).where(
        status.c.queue == queue, status.c.accounted_at <= until, _is_open()
    )
    if after is not None:
        rows = rows.where(status.c.accounted_at > after)
    return bool(connection.execute(select(exists(rows))).scalar_one())


def among(
    connection: Connection, queue: str, ids: Collection[str], *, before: datetime
) -> dict[str, int]:
    """Return which of *ids* are tasks of *queue* that were last accounted for before then, and how
    often each was sent again as a step of a workflow.
    """
    status = tables.table("task_status", connection.dialect.name)
    steps = tables.table("workflow_steps", connection.dialect.name)
    rows = (
        select(status.c.task_id, func.coalesce(steps.c.retries, 0).label("retries"))
        .outerjoin(steps, steps.c.task_id == status.c.task_id)
        .where(
            status.c.queue == queue,
            status.c.accounted_at <= before,
            status.c.task_id.in_(ids),
            _is_open(),
        )
    )
    return {row.task_id: row.retries for row in connection.execute(rows)}


def hold(connection: Connection, ids: Collection[str], *, older_than_seconds: float) -> None:
    """Note that a worker holds those tasks, where that was not noted a moment ago."""
    _HOLD.run(
        connection, ids=orjson.dumps(list(ids)).decode(), before=-older_than_seconds
    ).fetchall()


def note_outbox(connection: Connection, *, before: datetime, now: datetime) -> None:
    """Note that the outbox has those tasks that have not left it and may by now, where they were
    last accounted for before then.
    """
    status = tables.table("task_status", connection.dialect.name)
    outbox = tables.table("outbox", connection.dialect.name)

    def note(ids: Sequence[str]) -> None:
        older = (status.c.accounted_at < before, status.c.finished_at.is_(None))
        found = update(status).where(status.c.task_id.in_(ids), *older)
        connection.execute(found.values(accounted_at=now))

    due_at, position = outbox.c.due_at, outbox.c.position
    waiting = (
        select(outbox.c.id, due_at, position)
        .where(outbox.c.kind == "task", outbox.c.published_at.is_(None))
        .order_by(due_at, position)  # of the index
        .limit(_AT_A_TIME)
    )
    # What is due later was accounted for until then when it was accepted.
    ready = waiting.where(due_at == _AT_ONCE).with_only_columns(outbox.c.id, position)
    place = 0
    while rows := connection.execute(ready.where(position > place)).all():
        note([row.id for row in rows])
        place = rows[-1].position
    put_off = waiting.where(due_at > _AT_ONCE, due_at <= now + _SOON)
    query = put_off
    while later := connection.execute(query).all():
        note([row.id for row in later])
        last = later[-1]
        query = put_off.where(tuple_(due_at, position) > tuple_(last.due_at, last.position))


def lose(
    session: Session, queue: str, *, before: datetime, now: datetime, limit: int
) -> list[LostTask]:
    """Have those tasks of *queue* be lost that were last accounted for before then, and are not in
    the outbox.
    """
    connection = session.connection()
    status = tables.table("task_status", connection.dialect.name)
    outbox = tables.table("outbox", connection.dialect.name)
    rows = connection.execute(
        select(status.c.task_id, status.c.name, status.c.state)
        .where(status.c.queue == queue, status.c.accounted_at <= before, _is_open())
        .order_by(status.c.accounted_at)
        .limit(limit)
        .with_for_update(skip_locked=True)  # the others are being updated
    ).all()
    if not rows:
        return []
    waiting = set(
        connection.execute(
            select(outbox.c.id).where(
                outbox.c.kind == "task",
                outbox.c.published_at.is_(None),
                outbox.c.id.in_([row.task_id for row in rows]),
            )
        ).scalars()
    )
    found = [
        LostTask(row.task_id, row.name, queue, row.state)
        for row in rows
        if row.task_id not in waiting
    ]
    if waiting:
        of_outbox = update(status).where(status.c.task_id.in_(waiting))
        connection.execute(of_outbox.values(accounted_at=now))
    connection.execute(
        update(status)
        .where(status.c.task_id.in_([task.id for task in found]), _is_open())
        .values(state="lost", updated_at=now)
    )
    return found


def markers(connection: Connection, queue: str) -> list[Marker]:
    """Return the markers of *queue*, in the order in which they were sent."""
    table = tables.table("task_markers", connection.dialect.name)
    query = select(table).where(table.c.queue == queue).order_by(table.c.sent_at)
    return [Marker(row.id, row.sent_at, row.taken_at) for row in connection.execute(query)]


def add(connection: Connection, id: str, queue: str, now: datetime) -> None:
    """Note a marker that is about to be sent."""
    table = tables.table("task_markers", connection.dialect.name)
    connection.execute(insert(table).values(id=id, queue=queue, sent_at=now))


def take(connection: Connection, ids: Collection[str], now: datetime) -> None:
    """Note that a worker has taken those markers."""
    table = tables.table("task_markers", connection.dialect.name)
    taken = update(table).where(table.c.id.in_(ids), table.c.taken_at.is_(None))
    connection.execute(taken.values(taken_at=now))


def forget(connection: Connection, ids: Sequence[str]) -> None:
    """Delete those markers."""
    table = tables.table("task_markers", connection.dialect.name)
    connection.execute(delete(table).where(table.c.id.in_(ids)))


def _is_open() -> TextClause:
    # In the words of the index, or it is not used.
    return text(tables.OPEN_TASKS)
