"""The statements of the contracts service."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, and_, exists, func, or_, select, tuple_

from contracts.model.contract import Contract
from mainstay.http.pages import not_a_cursor
from mainstay.resources.sqlalchemy import tables

__all__ = ["Found", "contract", "newest", "total"]

Found = tuple[Contract, bool]
"""A contract, and whether its workflow has failed."""


def contract(id: UUID, dialect: str) -> Select[Contract, bool]:
    """The contract with that id."""
    return _contracts(dialect).where(Contract.id == id)


def newest(
    dialect: str, *, limit: int, offset: int, position: Sequence[Any] | None
) -> Select[Contract, bool]:
    """One page, newest first, and one row more, which tells whether there is another page.

    Raises:
        Invalid: The position is none of this table.
    """
    statement = _contracts(dialect)
    if position is not None:
        statement = statement.where(tuple_(Contract.created_at, Contract.id) < _position(position))
    newest_first = statement.order_by(Contract.created_at.desc(), Contract.id.desc())
    return newest_first.limit(limit + 1).offset(offset)


def total() -> Select[int]:
    """How many contracts there are in all."""
    return select(func.count()).select_from(Contract)


def _contracts(dialect: str) -> Select[Contract, bool]:
    step = tables.table("workflow_steps", dialect)
    status = tables.table("task_status", dialect)
    is_step = step.c.workflow_id == Contract.workflow_id
    failed_step = exists().where(
        is_step, status.c.task_id == step.c.task_id, status.c.state.in_(("failure", "revoked"))
    )
    # Workflows are forgotten some time after their end, which then was not a success.
    gave_up = and_(Contract.status != "active", ~exists().where(is_step))
    return select(Contract, or_(failed_step, gave_up))


def _position(position: Sequence[Any]) -> tuple[datetime, UUID]:
    try:
        created_at, id = position
        return datetime.fromisoformat(created_at), UUID(id)
    except (AttributeError, TypeError, ValueError) as error:
        raise not_a_cursor() from error
