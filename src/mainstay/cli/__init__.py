"""The ``mainstay`` command.

Exit codes: 0 good, 1 bad, 2 usage, 78 bad configuration. Each command is a module of its own
that is light to import; what is heavy is imported when the command runs.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from mainstay.cli import config as config
from mainstay.cli import db as db
from mainstay.cli import dead as dead
from mainstay.cli import dev as dev
from mainstay.cli import health as health
from mainstay.cli import tasks as tasks
from mainstay.cli import tokens as tokens
from mainstay.errors import MainstayError, Misconfigured

__all__ = ["app", "main"]

app = typer.Typer(
    name="mainstay",
    help="Run and look after back-end services that are built on Mainstay.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mainstay {version('mainstay')}")
        raise typer.Exit


@app.callback()
def _command(
    _: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


app.command("config")(config.config)
app.add_typer(tasks.app, name="tasks")
app.add_typer(dead.app, name="dead")
app.add_typer(db.app, name="db")
app.add_typer(tokens.app, name="tokens")
app.command("dev")(dev.dev)
app.command("health")(health.health)
app.command("run")(dev.run)


def main() -> NoReturn:
    """Run the command and end with its exit code; what is refused is one message on stderr."""
    try:
        app()
    except MainstayError as error:
        sys.stderr.write(f"mainstay: {error}\n")
        sys.exit(error.exit_code if isinstance(error, Misconfigured) else 1)
    sys.exit(0)
