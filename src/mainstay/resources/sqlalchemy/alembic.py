"""What a service's ``migrations/env.py`` does, in one call.

The whole file is::

    from data.models import metadata
    from data.settings import Settings
    from mainstay.resources.sqlalchemy.alembic import run

    run(Settings, metadata)

``mainstay db init`` writes it with the names of the modules that define the tables instead:
``run(Settings, models="data.models")``.

``mainstay db …`` and plain ``alembic …`` in the service's folder then do the same, under the same
lock, and neither touches Mainstay's own tables. Both import what `MODEL_DISCOVERY_PATHS` names, and
keep the version in the table that ``alembic.ini`` names as ``version_table``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from alembic import context
from sqlalchemy import Connection, MetaData
from sqlalchemy.engine import make_url

from mainstay.config import Settings, urls
from mainstay.errors import Misconfigured
from mainstay.resources.sqlalchemy import comparing, migrate, rendering
from mainstay.resources.sqlalchemy.models import discover, metadata_of

__all__ = ["run"]


def run(
    settings: Settings | type[Settings],
    target_metadata: MetaData | Sequence[MetaData] | None = None,
    *,
    models: str | Sequence[str] = (),
) -> None:
    """Do what Alembic was asked for, on the service's tables; for ``migrations/env.py`` alone.

    Args:
        settings: The service's settings, or their class: name the database, and the models that
            are to be found.
        target_metadata: The tables that the models define; by default all that *models* and
            `model_discovery_paths` define.
        models: Modules that define tables, and packages of them, ``"shop.models"``.

    Raises:
        Misconfigured: No database is named, or models that are not there.
    """
    context.script.file_template = migrate.unambiguous(context.script.file_template)
    named = [models] if isinstance(models, str) else list(models)
    given = context.config.attributes.get("connection")
    if isinstance(given, Connection):
        found = discover([*named, *context.config.attributes.get("models", ())])
        _migrate(given, _metadata(target_metadata, found))
        return
    try:
        loaded = settings if isinstance(settings, Settings) else settings.load()
        url = urls.sync_url(loaded.need("database_url"))
        found = discover([*named, *loaded.model_discovery_paths])
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
            target_metadata=_metadata(target_metadata, found),
            version_table=migrate.version_table(context.config),
        )
        with context.begin_transaction():
            context.run_migrations()
        return
    with migrate.migrating(url) as connection:
        _migrate(connection, _metadata(target_metadata, found))


def _metadata(
    given: MetaData | Sequence[MetaData] | None, modules: Sequence[str]
) -> Sequence[MetaData]:
    if given is None:
        return metadata_of(modules)
    return [given] if isinstance(given, MetaData) else given


def _migrate(connection: Connection, target_metadata: Sequence[MetaData]) -> None:
    sqlite = connection.dialect.name == "sqlite"
    version_table = migrate.version_table(context.config)
    recorded = [migrate.record(context.script, version_table)]
    context.configure(
        connection=connection,
        version_table=version_table,
        **comparing.options(connection, target_metadata, version_table),
        render_item=rendering.render,
        process_revision_directives=rendering.add_schemas_and_enums,
        render_as_batch=sqlite,
        transactional_ddl=True,
        on_version_apply=context.config.attributes.get("on_version_apply", recorded),
    )
    with context.begin_transaction():
        context.run_migrations()
