"""What Alembic compares of a service's models and its database, and what it leaves alone.

In a database there are also Mainstay's own tables, those of Celery's results, and those of other
services.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Connection, MetaData, Table, inspect
from sqlalchemy.schema import BLANK_SCHEMA, SchemaItem

from mainstay.resources.sqlalchemy import tables

__all__ = ["compared", "lines", "options"]

_OF_OTHERS = (f"{tables.SCHEMA}_", *tables.OF_CELERY)


def options(
    connection: Connection, every: Sequence[MetaData], version_table: str | None
) -> dict[str, Any]:
    """Return what Alembic is to be configured with to compare *every* table with a database.

    Args:
        connection: To the database.
        every: The tables that the models define.
        version_table: Where the service's migrations keep its version; ``None`` for a service
            without migrations, which has made no table, and so misses none of its own.
    """
    if connection.dialect.name == "sqlite":
        every = [_without_schemas(metadata) for metadata in every]
    schemas = {table.schema for metadata in every for table in metadata.tables.values()}
    return {
        "target_metadata": every,
        "include_schemas": bool(schemas - {None}),
        "include_name": _only(schemas | {None}),
        "include_object": _not_of_others(connection, version_table),
    }


def compared(connection: Connection, every: Sequence[MetaData]) -> list[str]:
    """Compare the tables of a service without migrations with a database; return what differs."""
    given = options(connection, every, None)
    context = MigrationContext.configure(connection, opts=given)
    return list(lines(compare_metadata(context, given["target_metadata"])))


def lines(differences: Iterable[Any]) -> Iterator[str]:
    """Write Alembic's differences as ``add column orders.total``; changes of one column in one."""
    for each in differences:
        if isinstance(each, list):
            yield from lines(each)
            continue
        verb = "needs" if each[0] == "execute" else str(each[0]).replace("_", " ")
        yield f"{verb} {' '.join(_name(part) for part in each[1:] if _name(part))}".strip()


def _not_of_others(connection: Connection, version_table: str | None) -> Any:
    """Where another service migrates the same database, a table that no model names may be its."""

    @cache  # asked when it is needed: a transaction that is open already, Alembic does not commit
    def is_shared() -> bool:
        if version_table is None:
            return True
        found = inspect(connection).get_table_names()
        return any(each.startswith("alembic_version") and each != version_table for each in found)

    def include(item: object, name: str, kind: str, reflected: bool, model: object) -> bool:
        return not (kind == "table" and reflected and model is None and is_shared())

    return include


def _without_schemas(metadata: MetaData) -> MetaData:
    """Return the tables as SQLite has them."""
    if not any(table.schema for table in metadata.tables.values()):
        return metadata
    bare = MetaData(naming_convention=metadata.naming_convention)
    for table in metadata.tables.values():
        table.to_metadata(bare, schema=None, referred_schema_fn=lambda *_: BLANK_SCHEMA)  # type: ignore[arg-type]  # it takes both
    return bare


def _only(schemas: set[str | None]) -> Any:
    """Look at the schemas that the models name, and at no table of Mainstay's, or of Celery's
    results, which Celery makes by itself.
    """

    def include(name: str | None, kind: str, parents: Mapping[str, str | None]) -> bool:
        if kind == "schema":
            return name in schemas
        return kind != "table" or not (name or "").startswith(_OF_OTHERS)

    return include


def _name(part: object) -> str:
    match part:
        case str():
            return part
        case Column():
            return str(part.name)
        case Table():
            return part.fullname
        case SchemaItem():
            return str(getattr(part, "name", None) or "")
        case _:
            return ""
