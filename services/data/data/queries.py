"""The statements of the data service: the API runs them async, the worker sync."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

from sqlalchemy import Insert, Select, Update, delete, func, insert, select, tuple_, update
from sqlalchemy.sql.dml import ReturningDelete

from data.models import DataProcessingRecord, TaskLog
from data.schemas import Status
from mainstay.errors import NotFound
from mainstay.http.pages import not_a_cursor

PROCESSING: Status = "Processing"
SUCCESS: Status = "Success"
FAILURE: Status = "Failure"

Row = TypeVar("Row", DataProcessingRecord, TaskLog)


def status_of(outcome: dict[str, Any] | None) -> Status:
    """Return the status that an outcome means; without one, the work goes on."""
    if outcome is None:
        return PROCESSING
    return SUCCESS if outcome["status"] == "success" else FAILURE


def finish(task_id: str, outcome: dict[str, Any]) -> Update:
    """Write what became of a task, unless that is known already."""
    return (
        update(DataProcessingRecord)
        .where(
            DataProcessingRecord.task_id == task_id,
            DataProcessingRecord.task_status == PROCESSING,
        )
        .values(task_status=status_of(outcome), outcome=outcome)
    )


def record(identity: str) -> Select[DataProcessingRecord]:
    """The record with that id or that task id."""
    return select(DataProcessingRecord).where(_is(identity))


def delete_record(identity: str) -> ReturningDelete[UUID]:
    """Delete the record with that id or that task id, and return its id."""
    return delete(DataProcessingRecord).where(_is(identity)).returning(DataProcessingRecord.id)


def records() -> Select[DataProcessingRecord]:
    return select(DataProcessingRecord)


def logs(task_id: str | None, correlation_id: str | None) -> Select[TaskLog]:
    """The logs of one task, of one outside request, or all."""
    statement = select(TaskLog)
    if task_id is not None:
        statement = statement.where(TaskLog.task_id == task_id)
    if correlation_id is not None:
        statement = statement.where(TaskLog.correlation_id == correlation_id)
    return statement


def newest(
    statement: Select[Row],
    model: type[Row],
    *,
    limit: int,
    offset: int,
    position: Sequence[Any] | None,
) -> Select[Row]:
    """One page, newest first, and one row more, which tells whether there is another page.

    Raises:
        Invalid: The position is none of this table.
    """
    if position is not None:
        statement = statement.where(tuple_(model.created_at, model.id) < _position(position))
    newest_first = statement.order_by(model.created_at.desc(), model.id.desc())
    return newest_first.limit(limit + 1).offset(offset)


def total(statement: Select[Row]) -> Select[int]:
    """How many rows there are in all."""
    return select(func.count()).select_from(statement.subquery())


def log_entry(
    *,
    task_id: str,
    correlation_id: str,
    queue_name: str,
    service_name: str,
    task_type: str,
    description: str | None,
    status: str,
) -> Insert:
    """Write the start or the end of a call or task."""
    return insert(TaskLog).values(
        id=uuid4(),
        task_id=task_id,
        correlation_id=correlation_id,
        queue_name=queue_name,
        service_name=service_name,
        task_type=task_type,
        description=description,
        status=status,
        # Not the database's time, which stands still during a transaction: the start of a task
        # comes before its end.
        created_at=datetime.now(UTC),
    )


def _is(identity: str) -> Any:
    try:
        uuid = UUID(identity)
    except ValueError as error:
        raise NotFound(f"there is no record {identity!r}") from error
    return (DataProcessingRecord.id == uuid) | (DataProcessingRecord.task_id == str(uuid))


def _position(position: Sequence[Any]) -> tuple[datetime, UUID]:
    try:
        created_at, id = position
        return datetime.fromisoformat(created_at), UUID(id)
    except (AttributeError, TypeError, ValueError) as error:
        raise not_a_cursor() from error
