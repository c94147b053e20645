"""``mainstay db``: the schema of each service's database, and what is kept in it for how long."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from mainstay.cli.services import ServiceHandle, selected
from mainstay.errors import Misconfigured

if TYPE_CHECKING:
    from mainstay.resources.sqlalchemy.migrate import Position

__all__ = ["app"]

app = typer.Typer(
    help="Look after the services' databases: Mainstay's tables and each service's own.",
    no_args_is_help=True,
)

Service = Annotated[
    str | None,
    typer.Option(
        "--service",
        help="A service of mainstay.toml. Else the one whose folder you are in; else every one "
        "that has a database.",
    ),
]
OneService = Annotated[
    str | None,
    typer.Option(
        "--service", help="A service of mainstay.toml. Else the one whose folder you are in."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command()
def init(
    models: Annotated[
        list[str] | None,
        typer.Option(
            help="A module that defines tables, or a package of them, as it is imported: "
            "shop.models. Else those that the service names."
        ),
    ] = None,
    service: OneService = None,
) -> None:
    """Write what Alembic needs for one service's migrations; overwrites nothing."""
    from mainstay.resources.sqlalchemy import initial

    each = _one(service, "gets migrations")
    named = models or each.models()
    if not named:
        raise Misconfigured(
            f"nothing says which modules define the tables of {each.name}: name them here, with "
            f"--models, or for its processes, Database(models=…)"
        )
    initial.write(each.path, each.name, type(each.settings), named, say=_teller(each))
    _teller(each)(
        "next: `mainstay db revision --autogenerate -m …` writes a migration, `mainstay db "
        "upgrade` applies it"
    )


@app.command()
def upgrade(service: Service = None) -> None:
    """Bring databases to the newest schema: Mainstay's tables first, then the service's.

    Any number of replicas may do it at once: one does it, the others wait.
    """
    from mainstay.resources.sqlalchemy import migrate

    for each in _with_database(service):
        migrate.upgrade(_url(each), each.path, say=_teller(each))
        if not _has_migrations(each):
            typer.echo(f"{each.name}: {each.path} {migrate.NO_MIGRATIONS}")


@app.command()
def downgrade(
    revision: Annotated[
        str, typer.Argument(help="A revision; -1 is one step back, base is before all of them.")
    ] = "-1",
    service: OneService = None,
) -> None:
    """Take one service's own tables back to an older schema. What the step drops is gone."""
    from mainstay.resources.sqlalchemy import migrate

    each = _one(service, "goes back")
    if not _has_migrations(each):
        raise Misconfigured(f"{each.path} {migrate.NO_MIGRATIONS}")
    migrate.downgrade(_url(each), each.path, revision, say=_teller(each))


@app.command()
def revision(
    message: Annotated[str, typer.Option("--message", "-m", help="What it does, in words.")],
    autogenerate: Annotated[
        bool,
        typer.Option(
            "--autogenerate/--empty",
            help="Write the difference between models and database, or an empty migration.",
        ),
    ] = True,
    service: OneService = None,
) -> None:
    """Write a new migration of one service."""
    from mainstay.resources.sqlalchemy import migrate

    each = _one(service, "gets a migration")
    migrate.revision(
        _url(each),
        each.path,
        message,
        autogenerate=autogenerate,
        models=each.settings.model_discovery_paths,
        say=_teller(each),
    )


@app.command()
def current(service: Service = None, as_json: Json = False) -> None:
    """Say which revisions the databases have, and which they lack."""
    from mainstay.resources.sqlalchemy import migrate

    found = [(each, migrate.current(_url(each), each.path)) for each in _with_database(service)]
    if as_json:
        _print({each.name: [_document(one) for one in positions] for each, positions in found})
        return
    for each, positions in found:
        for one in positions:
            at = ", ".join(one.current) or "nothing yet"
            typer.echo(f"{each.name}: {one.tree} at {at} ({one.state})")


@app.command()
def check(service: Service = None, as_json: Json = False) -> None:
    """Compare databases, migrations and models; exit 1 where they differ."""
    from mainstay.resources.sqlalchemy import migrate

    found = {
        each.name: migrate.check(_url(each), each.path, models=_models(each))
        for each in _with_database(service)
    }
    if as_json:
        _print(found)
    else:
        for name, differences in found.items():
            for line in differences or ["database, migrations and models agree"]:
                typer.echo(f"{name}: {line}")
    if any(found.values()):
        raise typer.Exit(1)


@app.command()
def purge(service: Service = None, as_json: Json = False) -> None:
    """Delete from Mainstay's tables what is older than its retention setting.

    Inbox: inbox_retention_seconds. Outbox, of what has left: outbox_retention_seconds.
    Idempotency keys: idempotency_ttl_seconds. Task status: task_status_retention_seconds. Dead
    letters: dead_letter_retention_seconds.
    """
    from mainstay.resources.sqlalchemy import Database, retention

    deleted = {}
    for each in _with_database(service):
        database = Database(url=_url(each))
        try:
            deleted[each.name] = retention.purge(database, each.settings)
        finally:
            database.close()
    if as_json:
        _print(deleted)
        return
    for name, counts in deleted.items():
        rows = ", ".join(f"{count} of {table}" for table, count in counts.items())
        typer.echo(f"{name}: deleted {rows}")


def _with_database(service: str | None) -> list[ServiceHandle]:
    return selected(service, with_database=True)


def _one(service: str | None, verb: str) -> ServiceHandle:
    found = _with_database(service)
    if len(found) > 1:
        names = ", ".join(each.name for each in found)
        raise Misconfigured(f"say which service {verb}, with --service: {names}")
    return found[0]


def _has_migrations(service: ServiceHandle) -> bool:
    return (service.path / "alembic.ini").is_file()


def _models(service: ServiceHandle) -> Sequence[str]:
    # Where there are migrations, their env.py knows the rest, and no application is imported.
    if _has_migrations(service):
        return service.settings.model_discovery_paths
    return service.models()


def _url(service: ServiceHandle) -> str:
    return str(service.settings.need("database_url"))


def _teller(service: ServiceHandle) -> Callable[[str], None]:
    return lambda line: typer.echo(f"{service.name}: {line}")


def _document(position: Position) -> dict[str, object]:
    return {
        "tree": position.tree,
        "current": list(position.current),
        "heads": list(position.heads),
        "pending": list(position.pending),
        "unknown": list(position.unknown),
    }


def _print(document: object) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
