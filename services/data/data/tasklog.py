"""The log of calls: its caller writes a row when a call begins and a row when it ends.

Each row is a separate transaction, so a call that failed, or reached no server, has its rows too.
A call whose start cannot be written is not made. When the end of a call that failed cannot be
written, that is logged, and the caller gets the error of the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

from data.models import TaskLog
from data.service import database, service
from mainstay.context import current
from mainstay.pipeline import outcome_of

# The event loop itself refers to its tasks weakly.
_endings: set[asyncio.Future[None]] = set()


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
        with _reported(task_id):
            _write(row(status=outcome_of(error)))
        raise
    _write(row(status="done"))


@asynccontextmanager
async def alogged(task_id: str, task_type: str, description: str | None) -> AsyncIterator[None]:
    """As :func:`logged`, on this event loop.

    The end is written also when the caller is cancelled, if need be after it has gone on.
    """
    row = _rows(task_id, task_type, description)
    await _awrite(row(status="started"))
    try:
        yield
    except BaseException as error:
        await _to_its_end(_areported(row(status=outcome_of(error))))
        raise
    await _to_its_end(_awrite(row(status="done")))


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


async def _areported(row: TaskLog) -> None:
    with _reported(row.task_id):
        await _awrite(row)


@contextmanager
def _reported(task_id: str) -> Iterator[None]:
    """Log why a row could not be written: an error of the call is on its way to the caller."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the error of the call counts
        service.logs.write(
            "error",
            "data.tasklog",
            "the end of a call could not be written to the log of calls",
            event="call_end_not_written",
            task_id=task_id,
            error=error,
        )


async def _to_its_end(writing: Coroutine[Any, Any, None]) -> None:
    """Await *writing*, which goes on when the caller is cancelled."""
    task = asyncio.ensure_future(writing)
    _endings.add(task)
    task.add_done_callback(_endings.discard)
    await asyncio.shield(task)
