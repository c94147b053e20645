"""The statements of the data service: the API runs them async, the worker sync."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Delete, Update
from sqlmodel import col, delete, func, or_, select, tuple_, update
from sqlmodel.sql.expression import SelectOfScalar

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
    """Write the outcome of a task into its record, unless it has one."""
    return (
        update(DataProcessingRecord)
        .where(
            col(DataProcessingRecord.task_id) == task_id,
            col(DataProcessingRecord.task_status) == PROCESSING,
        )
        .values(task_status=status_of(outcome), outcome=outcome)
    )


def record(identity: str) -> SelectOfScalar[DataProcessingRecord]:
    """The record with that id or that task id."""
    return select(DataProcessingRecord).where(_is(identity))


def delete_record(identity: str) -> Delete:
    """Delete the record with that id or that task id."""
    return delete(DataProcessingRecord).where(_is(identity))


def records() -> SelectOfScalar[DataProcessingRecord]:
    return select(DataProcessingRecord)


def logs(task_id: str | None, correlation_id: str | None) -> SelectOfScalar[TaskLog]:
    """The logs of one task, of one outside request, or all."""
    statement = select(TaskLog)
    if task_id is not None:
        statement = statement.where(col(TaskLog.task_id) == task_id)
    if correlation_id is not None:
        statement = statement.where(col(TaskLog.correlation_id) == correlation_id)
    return statement


def newest(
    statement: SelectOfScalar[Row],
    model: type[Row],
    *,
    limit: int,
    offset: int,
    position: Sequence[Any] | None,
) -> SelectOfScalar[Row]:
    """One page, newest first, and one row more, which shows whether there is another page.

    Raises:
        Invalid: The position is none of this table.
    """
    if position is not None:
        here = tuple_(col(model.created_at), col(model.id))
        statement = statement.where(here < _position(position))
    newest_first = statement.order_by(col(model.created_at).desc(), col(model.id).desc())
    return newest_first.limit(limit + 1).offset(offset)


def total(statement: SelectOfScalar[Row]) -> SelectOfScalar[int]:
    """How many rows there are in all."""
    return select(func.count()).select_from(statement.subquery())


def _is(identity: str) -> ColumnElement[bool]:
    try:
        uuid = UUID(identity)
    except ValueError as error:
        raise NotFound(f"there is no record {identity!r}") from error
    return or_(col(DataProcessingRecord.id) == uuid, col(DataProcessingRecord.task_id) == str(uuid))


def _position(position: Sequence[Any]) -> tuple[datetime, UUID]:
    try:
        created_at, id = position
        at = datetime.fromisoformat(created_at)
        if at.utcoffset() is None:
            raise ValueError("no row has a time without its zone")
        return at.astimezone(UTC), UUID(id)
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise not_a_cursor() from error
