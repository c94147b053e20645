"""What a service's ``migrations/env.py`` does, in one call.

The whole file is::

    from data.models import metadata
    from data.settings import Settings
    from mainstay.resources.sqlalchemy.alembic import run

    run(Settings, metadata)

``mainstay db …`` and plain ``alembic …`` in the service's folder then do the same, under the same
lock, and neither touches Mainstay's own tables. Both import what `MODEL_DISCOVERY_PATHS` names.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alembic import context
from sqlalchemy import Connection, MetaData
from sqlalchemy.engine import make_url
from sqlalchemy.schema import BLANK_SCHEMA

from mainstay.config import Settings, urls
from mainstay.errors import Misconfigured
from mainstay.resources.sqlalchemy import migrate, rendering, tables
from mainstay.resources.sqlalchemy.models import discover

__all__ = ["run"]

_OF_OTHERS = (f"{tables.SCHEMA}_", *tables.OF_CELERY)


def run(
    settings: Settings | type[Settings], target_metadata: MetaData | Sequence[MetaData]
) -> None:
    """Do what Alembic was asked for, on the service's tables; for ``migrations/env.py`` alone.

    Args:
        settings: The service's settings, or their class: name the database, and the models that
            are to be found.
        target_metadata: The tables that the models define.

    Raises:
        Misconfigured: No database is named, or models that are not there.
    """
    given = context.config.attributes.get("connection")
    if isinstance(given, Connection):
        _migrate(given, target_metadata)
        return
    try:
        loaded = settings if isinstance(settings, Settings) else settings.load()
        url = urls.sync_url(loaded.need("database_url"))
        discover(loaded.model_discovery_paths)
    except Misconfigured as error:
        if Path(sys.argv[0]).name != "alembic":
            raise
        sys.stderr.write(f"{error}\n")
        raise SystemExit(Misconfigured.exit_code) from error
    if context.is_offline_mode():
        # Only the kind of database matters to SQL that is printed, and no password may be.
        context.configure(
            dialect_name=make_url(url).get_backend_name(),
            literal_binds=True,
            target_metadata=target_metadata,
        )
        with context.begin_transaction():
            context.run_migrations()
        return
    with migrate.migrating(url) as connection:
        _migrate(connection, target_metadata)


def _migrate(connection: Connection, target_metadata: MetaData | Sequence[MetaData]) -> None:
    every = [target_metadata] if isinstance(target_metadata, MetaData) else target_metadata
    sqlite = connection.dialect.name == "sqlite"
    if sqlite:
        every = [_without_schemas(metadata) for metadata in every]
    schemas = {table.schema for metadata in every for table in metadata.tables.values()}
    context.configure(
        connection=connection,
        target_metadata=every,
        include_schemas=bool(schemas - {None}),
        include_name=_only(schemas | {None}),
        render_item=rendering.render,
        process_revision_directives=rendering.add_schemas_and_enums,
        render_as_batch=sqlite,
        transactional_ddl=True,
        on_version_apply=context.config.attributes.get("on_version_apply"),
    )
    with context.begin_transaction():
        context.run_migrations()


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
