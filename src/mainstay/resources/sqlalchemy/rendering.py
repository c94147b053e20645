"""How a generated migration writes the types of columns, and what PostgreSQL needs before them.

Alembic writes a type as its ``repr()``. A migration then needs the module that defines the type,
which it does not import, and changes when that module does. So a type that only converts values
(SQLModel's, or an author's `TypeDecorator`) is written as the type that the column has.

PostgreSQL's enumerated types and schemas are separate objects. Alembic makes a type with the
table that uses it, fails where a second table or an added column does, and forgets it in the
downgrade; it makes no schema at all. So both are made by separate statements.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import _repr_type
from alembic.ddl.postgresql import PostgresqlImpl
from alembic.operations.ops import ExecuteSQLOp, MigrateOperation, MigrationScript
from alembic.runtime.migration import MigrationContext
from sqlalchemy import ARRAY, Connection, Dialect, Enum, MetaData, TypeDecorator, inspect, types
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import CreateEnumType, DropEnumType
from sqlalchemy.schema import CreateSchema
from sqlalchemy.types import TypeEngine, UserDefinedType

__all__ = ["add_schemas_and_enums", "render"]

# Only to write with; neither connects.
# With the drivers' own style of parameters, each % would be written twice.
_POSTGRESQL = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]  # SQLAlchemy's own
_WRITER = PostgresqlImpl(_POSTGRESQL, None, True, None, None, {})

# They are made of something else, or by an author, and cannot be written themselves.
_ABSTRACT = (TypeDecorator, UserDefinedType, TypeEngine)


def render(kind: str, item: object, context: AutogenContext) -> str | Literal[False]:
    """Write a type so that the migration needs no module of the service; ``render_item``."""
    if kind != "type" or not isinstance(item, TypeEngine):
        return False
    dialect, module = context.dialect, type(item).__module__
    is_postgresql = _is_postgresql(dialect)
    below = _below(item, dialect)
    if isinstance(item, Enum) and item.native_enum and is_postgresql and below is None:
        context.imports.add("from sqlalchemy.dialects import postgresql")
        schema = f", schema={item.schema!r}" if item.schema else ""
        labels = "".join(f"{label!r}, " for label in item.enums)
        return f"postgresql.ENUM({labels}name={item.name!r}{schema}, create_type=False)"
    if not module.startswith("sqlalchemy."):
        if isinstance(item, TypeDecorator) and below is not None:
            return _repr_type(_public(below), context)
        context.imports.add(f"import {module}")
    elif isinstance(item, ARRAY) and not item._variant_mapping:
        # Alembic looks for the items with a regular expression, which labels of an enum break.
        is_own = module.startswith(postgresql.__name__)
        if is_own:
            context.imports.add("from sqlalchemy.dialects import postgresql")
        items = _repr_type(item.item_type, context)
        written = repr(item).replace(repr(item.item_type), items, 1)
        return f"{'postgresql' if is_own else 'sa'}.{written}"
    elif module.startswith(postgresql.__name__) and not is_postgresql:
        # A variant, which Alembic writes right only where it migrates PostgreSQL.
        context.imports.add("from sqlalchemy.dialects import postgresql")
        return _WRITER.render_type(item, context) or f"postgresql.{item!r}"
    return False


def _below(kind: TypeEngine[Any], dialect: Dialect) -> TypeEngine[Any] | None:
    """Return the type that *kind* stands for on *dialect*: its variant, or what it decorates."""
    variant = kind._variant_mapping.get(dialect.name)
    if variant is None and isinstance(kind, TypeDecorator):
        return kind.type_engine(dialect)
    return variant


def _public(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return *kind* as a type that a migration can name: drivers have private classes."""
    for each in type(kind).__mro__:
        if each in _ABSTRACT:
            break
        if each in (getattr(where, each.__name__, None) for where in (types, postgresql)):
            # What is adapted to its own class shows a private argument.
            return kind if each is type(kind) else kind.adapt(each)
    return kind


def add_schemas_and_enums(
    context: MigrationContext, revision: object, scripts: list[MigrationScript]
) -> None:
    """Have a generated migration make the schemas and the enumerated types that its tables name,
    and add what the latter lack; ``process_revision_directives``.

    Schemas stay in a downgrade, because others may use them, and so do values of a type, which
    PostgreSQL cannot remove.
    """
    connection = context.connection
    if connection is None or not _is_postgresql(context.dialect):
        return
    for script in scripts:
        for upgrade, downgrade in zip(
            script.upgrade_ops_list, script.downgrade_ops_list, strict=True
        ):
            first, last = _statements(connection, _tables_of(context))
            upgrade.ops[:0] = first
            downgrade.ops += last


def _statements(
    connection: Connection, every: Sequence[MetaData]
) -> tuple[list[MigrateOperation], list[MigrateOperation]]:
    """Return what is to be executed before the upgrade and after the downgrade."""
    there = inspect(connection)
    schemas = {table.schema for metadata in every for table in metadata.tables.values()}
    missing = sorted(schemas - {None, *there.get_schema_names()}, key=str)
    first = [
        str(CreateSchema(str(name), if_not_exists=True).compile(dialect=_POSTGRESQL))
        for name in missing
    ]
    last: list[str] = []
    default = there.default_schema_name
    known = {(one["schema"], one["name"]): one["labels"] for one in there.get_enums(schema="*")}  # type: ignore[attr-defined]  # PostgreSQL's inspector has it
    for enum in _enums(every):
        labels = known.get((enum.schema or default, enum.name))
        if labels is None:
            first.append(str(CreateEnumType(enum).compile(dialect=_POSTGRESQL)))
            last.append(str(DropEnumType(enum).compile(dialect=_POSTGRESQL)))
            continue
        quote = _POSTGRESQL.identifier_preparer.quote
        name = ".".join(quote(part) for part in (enum.schema, enum.name) if part)
        for label in enum.enums:
            if label not in labels:
                quoted = label.replace("'", "''")
                first.append(f"ALTER TYPE {name} ADD VALUE IF NOT EXISTS '{quoted}'")
    return _executed(first), _executed(last)


def _executed(statements: Iterable[str]) -> list[MigrateOperation]:
    # `op.execute` takes a colon for the beginning of a parameter.
    return [ExecuteSQLOp(statement.replace(":", r"\:")) for statement in statements]


def _enums(every: Iterable[MetaData]) -> Iterator[Enum]:
    """Yield the enumerated types of all columns, each once."""
    found: dict[tuple[str | None, str | None], Enum] = {}
    for metadata in every:
        for table in metadata.sorted_tables:
            for column in table.columns:
                enum = _innermost(column.type)
                if isinstance(enum, Enum) and _is_ours(enum):
                    found.setdefault((enum.schema, enum.name), enum)
    yield from found.values()


def _innermost(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return what is left of *kind* in PostgreSQL without decorators, variants and arrays."""
    while True:
        inner = _below(kind, _POSTGRESQL)
        if inner is None:
            if not isinstance(kind, ARRAY):
                return kind
            inner = kind.item_type
        kind = inner


def _is_ours(enum: Enum) -> bool:
    # With `create_type=False` its author has said that it is made elsewhere.
    # Before SQLAlchemy 2.1 only PostgreSQL's own has it.
    is_created = getattr(enum, "create_type", True)
    return enum.native_enum and bool(enum.name) and is_created


def _tables_of(context: MigrationContext) -> Sequence[MetaData]:
    found = context.opts["target_metadata"]
    return [found] if isinstance(found, MetaData) else list(found or ())


def _is_postgresql(dialect: Dialect | None) -> bool:
    return dialect is not None and dialect.name == "postgresql"
