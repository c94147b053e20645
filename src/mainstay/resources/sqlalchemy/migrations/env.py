"""How Alembic reaches Mainstay's own tables; only :mod:`..migrate` runs it, with a connection."""

from typing import Any

from alembic import context

from mainstay.resources.sqlalchemy import tables

connection = context.config.attributes.get("connection")
dialect = connection.dialect.name if connection is not None else "postgresql"
schema = tables.schema_of(dialect)


def _is_ours(name: str | None, kind: str, parents: Any) -> bool:
    if kind == "schema":
        return name == schema
    if kind == "table" and schema is None:
        return (name or "").startswith(f"{tables.SCHEMA}_")
    return kind != "table" or name not in tables.OF_CELERY


context.configure(
    connection=connection,
    target_metadata=tables.metadata(dialect),
    version_table=tables.name_of("alembic_version", dialect),
    version_table_schema=schema,
    include_schemas=schema is not None,
    include_name=_is_ours,
    render_as_batch=dialect == "sqlite",
    transactional_ddl=True,
    on_version_apply=context.config.attributes.get("on_version_apply"),
)
with context.begin_transaction():
    context.run_migrations()
