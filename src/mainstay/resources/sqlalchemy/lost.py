"""Rows of tasks that are lost: how many there are, and what sends them again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select, tuple_, update
from sqlalchemy.orm import Session

from mainstay.outgoing import OutboxMessage
from mainstay.resources.sqlalchemy import tables
from mainstay.resources.sqlalchemy.schedule import now
from mainstay.resources.sqlalchemy.status import read
from mainstay.taskstates import State

__all__ = ["COUNTED", "Reopened", "count", "page", "reopen"]

COUNTED = 10_000
"""More are not counted: that takes time for each."""

Place = tuple[Any, str]


@dataclass(frozen=True, slots=True)
class Reopened:
    """Tasks that wait again.

    Args:
        messages: What sends them.
        missing: The ids of those that are lost, and of which nothing is kept that would.
    """

    messages: Sequence[OutboxMessage]
    missing: Sequence[str]


def count(connection: Connection) -> int:
    """Return how many tasks are lost; :data:`COUNTED` at most."""
    status = tables.table("task_status", connection.dialect.name)
    lost = select(status.c.task_id).where(status.c.state == State.LOST.value).limit(COUNTED)
    return int(connection.execute(select(func.count()).select_from(lost.subquery())).scalar_one())


def page(connection: Connection, after: Place | None, limit: int) -> list[Place]:
    """Return when lost tasks were accepted, and their ids, the oldest first."""
    status = tables.table("task_status", connection.dialect.name)
    place = (status.c.created_at, status.c.task_id)
    query = select(*place).where(status.c.state == State.LOST.value).order_by(*place).limit(limit)
    if after is not None:
        query = query.where(tuple_(*place) > tuple_(*after))
    return [(row.created_at, row.task_id) for row in connection.execute(query)]


def reopen(session: Session, ids: Collection[str]) -> Reopened:
    """Have those of the tasks wait again that are lost, and return what sends them."""
    connection = session.connection()
    status = tables.table("task_status", connection.dialect.name)
    is_lost = status.c.state == State.LOST.value
    rows = connection.execute(
        select(status.c.task_id, status.c.created_at, status.c.message)
        .where(status.c.task_id.in_(ids), is_lost)
        .order_by(status.c.task_id)
        .with_for_update(skip_locked=True)  # another process is sending the others
    ).all()
    messages = {row.task_id: read(row.message) for row in rows if row.message is not None}
    others = [row for row in rows if row.task_id not in messages]
    if others:
        messages |= _published(connection, {row.task_id: row.created_at for row in others})
    moment = now(connection)
    connection.execute(
        update(status)
        .where(status.c.task_id.in_(messages), is_lost)
        .values(
            state=State.WAITING.value,
            result=None,
            error=None,
            attempts=0,
            epoch=0,
            updated_at=moment,
            accounted_at=moment,
        )
    )
    missing = [row.task_id for row in rows if row.task_id not in messages]
    return Reopened(list(messages.values()), missing)


def _published(connection: Connection, accepted_at: dict[str, Any]) -> dict[str, OutboxMessage]:
    """Return what has left the outbox under those ids, as far as it is kept."""
    outbox = tables.table("outbox", connection.dialect.name)
    rows = connection.execute(
        select(outbox)
        # By the index of what has left: none of it can have, before it was accepted.
        .where(outbox.c.published_at >= min(accepted_at.values()))
        .where(outbox.c.kind == "task", outbox.c.id.in_(accepted_at))
        .order_by(outbox.c.position)
    )
    return {
        row.id: OutboxMessage(
            id=row.id,
            kind="task",
            name=row.name,
            destination=row.destination,
            headers=row.headers,
            route=row.route,
            body=bytes(row.body),
        )
        for row in rows
    }
