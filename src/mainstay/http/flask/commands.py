"""What `flask --app …` can do with a service besides `run` and `routes`: `db`, and `shell` with a
unit of work.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import click
from flask import Flask

from mainstay.errors import MainstayError, Misconfigured
from mainstay.http.flask.work import Work

if TYPE_CHECKING:
    from mainstay.service import Service

__all__ = ["install", "refusing"]

P = ParamSpec("P")
R = TypeVar("R")


def install(app: Flask, service: Service) -> None:
    """Add the commands to *app*, and what a shell begins with."""
    app.shell_context_processor(lambda: _names(service))
    if "database" in service.resources:
        app.cli.add_command(_db(service))


@contextmanager
def refusing() -> Iterator[None]:
    """End a command of Flask's with a message and exit code 78 where settings do not fit.

    Elsewhere the error goes on to whoever imports the application.
    """
    try:
        yield
    except Misconfigured as error:
        if click.get_current_context(silent=True) is None:
            raise
        _end(error)


def _names(service: Service) -> dict[str, Any]:
    names: dict[str, Any] = {"service": service}
    if "database" in service.resources:
        # Nothing is connected until the first statement.
        work = Work(service)
        names |= {"work": work, "session": work.session}
    return names


def _db(service: Service) -> click.Group:
    from mainstay.resources.sqlalchemy import Database, migrate, retention

    database = service.resource(Database)

    def url() -> str:
        return str(service.settings.need("database_url"))

    def folder() -> Path | None:
        return migrate.folder_of(database.models)

    def own_folder() -> Path:
        found = folder()
        if found is None:
            raise Misconfigured(f"the service {migrate.NO_MIGRATIONS}")
        return found

    @click.group(help="Look after the database: Mainstay's tables and the service's own.")
    def db() -> None: ...

    @db.command()
    @_told
    def upgrade() -> None:
        """Bring the database to the newest schema: Mainstay's tables first, then the service's."""
        migrate.upgrade(url(), folder(), say=click.echo)

    @db.command()
    @click.argument("revision", default="-1")
    @_told
    def downgrade(revision: str) -> None:
        """Take the service's own tables back to an older schema. What the step drops is gone."""
        migrate.downgrade(url(), own_folder(), revision, say=click.echo)

    @db.command()
    @click.option("--message", "-m", required=True, help="What it does, in words.")
    @click.option("--autogenerate/--empty", default=True, help="The difference, or nothing.")
    @_told
    def revision(message: str, autogenerate: bool) -> None:
        """Write a new migration, from the difference between models and database."""
        migrate.revision(url(), own_folder(), message, autogenerate=autogenerate, say=click.echo)

    @db.command()
    @_told
    def current() -> None:
        """Say which revisions the database has, and which it lacks."""
        for one in migrate.current(url(), folder()):
            click.echo(f"{one.tree} at {', '.join(one.current) or 'nothing yet'} ({one.state})")

    @db.command()
    @_told
    def check() -> None:
        """Compare database, migrations and models; exit 1 where they differ."""
        differences = migrate.check(url(), folder(), models=database.models)
        for line in differences or ["database, migrations and models agree"]:
            click.echo(line)
        if differences:
            sys.exit(1)

    @db.command()
    @_told
    def purge() -> None:
        """Delete from Mainstay's tables what is older than its retention setting."""
        click.echo(json.dumps(retention.purge(database, service.settings)))

    return db


def _told(command: Callable[P, R]) -> Callable[P, R]:
    """Answer what is refused, and what does not work now, with a line instead of a stack."""

    @wraps(command)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except MainstayError as error:
            _end(error)

    return told


def _end(error: MainstayError) -> NoReturn:
    click.echo(str(error), err=True)
    sys.exit(Misconfigured.exit_code if isinstance(error, Misconfigured) else 1)
