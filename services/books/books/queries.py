"""The statements of the books service, and what the database's refusals mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Select, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from books.models import Group, Type
from books.schemas import Part
from mainstay.errors import Conflict, NotFound, Refuse
from mainstay.resources.sqlalchemy.failures import sqlstate

Row = TypeVar("Row", Group, Type)


class IdTaken(Refuse):
    """There is a row with this id already."""

    title = "Id taken"


class NoSuchGroup(Refuse):
    """A type cannot be in a group that is not there."""

    title = "No such group"


# As PostgreSQL and SQLite call it: the first is a SQLSTATE.
_TAKEN = frozenset({"23505", "SQLITE_CONSTRAINT_PRIMARYKEY"})


def part(model: type[Row], asked: Part) -> Select[Row]:
    """Some rows, or all, in the order of their ids."""
    return select(model).order_by(model.id).limit(asked.limit).offset(asked.offset)


def total(model: type[Row]) -> Select[int]:
    """How many rows there are in all."""
    return select(func.count()).select_from(model)


def find(session: Session, model: type[Row], id: int, *, for_change: bool = False) -> Row:
    """Return the row with that id; one that is to be changed is locked until the commit.

    Raises:
        NotFound: There is none.
    """
    row = session.get(model, id, with_for_update=for_change or None)
    if row is None:
        raise NotFound(f"there is no {_called(model)} {id}")
    return row


def create(session: Session, row: Row) -> None:
    """Write a new row.

    Raises:
        IdTaken, NoSuchGroup: The database has another row of that id, or not that group.
    """
    with _refusing(f"there is a {_called(type(row))} {row.id} already: give this one another id"):
        session.add(row)
        session.flush()


def change(session: Session, row: Row, fields: Mapping[str, Any]) -> None:
    """Write *fields* of a row.

    Raises:
        NoSuchGroup: The database has none of that id.
    """
    with _refusing():
        for name, value in fields.items():
            setattr(row, name, value)
        session.flush()


def delete(session: Session, row: Row) -> None:
    """Delete a row.

    Raises:
        Conflict: It is a group that types are still in.
    """
    try:
        session.delete(row)
        session.flush()
    except IntegrityError as error:
        raise Conflict(
            "types are still in this group: delete them, or move them to another one, first"
        ) from error


@contextmanager
def _refusing(taken: str = "") -> Iterator[None]:
    """Say in words why the database does not take a row."""
    try:
        yield
    except IntegrityError as error:
        names = {sqlstate(error), getattr(error.orig, "sqlite_errorname", "")}
        if names & _TAKEN:
            raise IdTaken(taken) from error
        raise NoSuchGroup("there is no such group: choose one that there is") from error


def _called(model: type[Row]) -> str:
    return model.__name__.lower()
