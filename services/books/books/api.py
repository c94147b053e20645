"""The JSON API of groups and types: each route hands over to the queries."""

from __future__ import annotations

import time
from typing import Annotated, TypeVar

from flask import Blueprint
from pydantic import BaseModel
from sqlalchemy import text

from books import queries
from books.models import Group, Type
from books.schemas import (
    DbStatus,
    GroupFields,
    GroupIn,
    GroupOut,
    Health,
    Id,
    Listing,
    Part,
    TypeFields,
    TypeIn,
    TypeOut,
)
from books.service import service
from mainstay.http.etags import check_if_match, etag_of
from mainstay.http.flask import IfMatch, Work, operation, work

blueprint = Blueprint("api", __name__)
PlainWork = Annotated[Work, work]
Row = TypeVar("Row", Group, Type)
Shown = TypeVar("Shown", GroupOut, TypeOut)
Tagged = tuple[Shown, dict[str, str]]
"""A row as it is shown, and the headers that tell its version."""


@blueprint.get("/groups/")
@operation(tags=["groups"])
def groups(part: Part, w: PlainWork) -> Listing[GroupOut]:
    """List the groups: all, or a part of them."""
    return _listing(w, Group, GroupOut, part)


@blueprint.post("/groups/")
@operation(status=201, tags=["groups"])
def create_group(body: GroupIn, w: PlainWork) -> Tagged[GroupOut]:
    """Add a group under an id of your own."""
    row = Group(**body.model_dump())
    queries.create(w.session, row)
    return _tagged(row, GroupOut)


@blueprint.get("/groups/<int:id>")
@operation(tags=["groups"])
def group(id: Id, w: PlainWork) -> Tagged[GroupOut]:
    """Show one group."""
    return _tagged(queries.find(w.session, Group, id), GroupOut)


@blueprint.put("/groups/<int:id>")
@operation(tags=["groups"])
def change_group(
    id: Id, body: GroupFields, w: PlainWork, if_match: IfMatch = None
) -> Tagged[GroupOut]:
    """Change the fields that are given."""
    return _changed(w, Group, GroupOut, id, body, if_match)


@blueprint.delete("/groups/<int:id>")
@operation(status=204, tags=["groups"])
def delete_group(id: Id, w: PlainWork) -> None:
    """Delete a group that no type is in."""
    queries.delete(w.session, queries.find(w.session, Group, id, for_change=True))


@blueprint.get("/types/")
@operation(tags=["types"])
def types(part: Part, w: PlainWork) -> Listing[TypeOut]:
    """List the types: all, or a part of them."""
    return _listing(w, Type, TypeOut, part)


@blueprint.post("/types/")
@operation(status=201, tags=["types"])
def create_type(body: TypeIn, w: PlainWork) -> Tagged[TypeOut]:
    """Add a type under an id of your own, in a group that is there."""
    row = Type(**body.model_dump())
    queries.create(w.session, row)
    return _tagged(row, TypeOut)


@blueprint.get("/types/<int:id>")
@operation(tags=["types"])
def type_(id: Id, w: PlainWork) -> Tagged[TypeOut]:
    """Show one type."""
    return _tagged(queries.find(w.session, Type, id), TypeOut)


@blueprint.put("/types/<int:id>")
@operation(tags=["types"])
def change_type(
    id: Id, body: TypeFields, w: PlainWork, if_match: IfMatch = None
) -> Tagged[TypeOut]:
    """Change the fields that are given."""
    return _changed(w, Type, TypeOut, id, body, if_match)


@blueprint.delete("/types/<int:id>")
@operation(status=204, tags=["types"])
def delete_type(id: Id, w: PlainWork) -> None:
    """Delete a type."""
    queries.delete(w.session, queries.find(w.session, Type, id, for_change=True))


@blueprint.get("/health")
@operation(tags=["service"], responses={503: Health})
def health() -> tuple[Health, int]:
    """Tell how the service is, and each thing that it holds open."""
    report = service.health.health()
    return Health.model_validate(report.as_dict()), report.http_status


@blueprint.get("/db-status")
@operation(tags=["service"])
def db_status(w: PlainWork) -> DbStatus:
    """Ask the database, and tell how soon it answered."""
    started = time.perf_counter()
    w.session.execute(text("select 1"))
    return DbStatus(latency_ms=round((time.perf_counter() - started) * 1000, 3))


def _listing(w: Work, model: type[Row], shown: type[Shown], part: Part) -> Listing[Shown]:
    rows = w.session.scalars(queries.part(model, part))
    items = [shown.model_validate(row) for row in rows]
    everything = part.limit is None and not part.offset
    total = len(items) if everything else w.session.scalar(queries.total(model))
    return Listing(items=items, total=total or 0)


def _changed(
    w: Work,
    model: type[Row],
    shown: type[Shown],
    id: int,
    body: BaseModel,
    if_match: str | None,
) -> Tagged[Shown]:
    row = queries.find(w.session, model, id, for_change=True)
    check_if_match(if_match, _etag(shown.model_validate(row)))
    queries.change(w.session, row, body.model_dump(exclude_unset=True))
    return _tagged(row, shown)


def _tagged(row: Row, shown: type[Shown]) -> Tagged[Shown]:
    found = shown.model_validate(row)
    return found, {"ETag": _etag(found)}


def _etag(shown: BaseModel) -> str:
    return etag_of(*shown.model_dump().values())
