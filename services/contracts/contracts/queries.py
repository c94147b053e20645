"""The statements of the contracts service."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select, tuple_

from contracts.model.contract import Contract
from mainstay.http.pages import not_a_cursor

__all__ = ["newest", "total"]


def newest(*, limit: int, offset: int, position: Sequence[Any] | None) -> Select[Contract]:
    """One page, newest first, and one row more, which tells whether there is another page.

    Raises:
        Invalid: The position is none of this table.
    """
    statement = select(Contract)
    if position is not None:
        statement = statement.where(tuple_(Contract.created_at, Contract.id) < _position(position))
    newest_first = statement.order_by(Contract.created_at.desc(), Contract.id.desc())
    return newest_first.limit(limit + 1).offset(offset)


def total() -> Select[int]:
    """How many contracts there are in all."""
    return select(func.count()).select_from(Contract)


def _position(position: Sequence[Any]) -> tuple[datetime, UUID]:
    try:
        created_at, id = position
        return datetime.fromisoformat(created_at), UUID(id)
    except (AttributeError, TypeError, ValueError) as error:
        raise not_a_cursor() from error
