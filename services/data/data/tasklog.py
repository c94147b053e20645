"""The log of calls: its caller writes a row when a call begins and a row when it ends.

Each row is a separate transaction, so a call that failed, or reached no server, has its rows too.
A call whose start cannot be written is not made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

from data.models import TaskLog
from data.service import database, service
from mainstay.context import current
from mainstay.pipeline import outcome_of


@contextmanager
def logged(task_id: str, task_type: str, description: str | None) -> Iterator[None]:
    """Log the call that is made inside.

    Args:
        task_id: The task that makes it, or the record that will hold its outcome.
        task_type: ``sync`` or ``async``, as the record has it.
    """
    row = _rows(task_id, task_type, description)
    _write(row(status="started"))
    try:
        yield
    except BaseException as error:
        _write(row(status=outcome_of(error)))
        raise
    _write(row(status="done"))


@asynccontextmanager
async def alogged(task_id: str, task_type: str, description: str | None) -> AsyncIterator[None]:
    """As :func:`logged`, on this event loop."""
    row = _rows(task_id, task_type, description)
    await _awrite(row(status="started"))
    try:
        yield
    except BaseException as error:
        await _awrite(row(status=outcome_of(error)))
        raise
    await _awrite(row(status="done"))


def _rows(task_id: str, task_type: str, description: str | None) -> partial[TaskLog]:
    context = current()
    return partial(
        TaskLog,
        task_id=task_id,
        correlation_id=context.correlation_id if context else "",
        queue_name=service.settings.data_queue_name,
        service_name=service.name,
        task_type=task_type,
        description=description,
    )


def _write(row: TaskLog) -> None:
    with database.session() as session:
        session.add(row)


async def _awrite(row: TaskLog) -> None:
    async with database.asession() as session:
        session.add(row)
