"""``mainstay dev`` and ``mainstay run``: the processes that ``mainstay.toml`` declares."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["dev", "run"]


def dev(
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROCESS", help="Run this process alone (data.api, api, data); repeatable."
        ),
    ] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Empty .mainstay/ first: all development data is lost.")
    ] = False,
    no_reload: Annotated[
        bool, typer.Option("--no-reload", help="Do not start processes again when files change.")
    ] = False,
) -> None:
    """Run everything that mainstay.toml declares, on servers of its own.

    PostgreSQL and Valkey are started where no variable names a server (DATABASE_URL, REDIS_URL);
    their data is kept in .mainstay/. Changed files start their service again. Ctrl-C stops all.
    """
    from mainstay.cli.development import develop

    raise typer.Exit(develop(only or (), reset=reset, reload=not no_reload))


def run(
    processes: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROCESS", help="data.api, api, or data; all when none."),
    ] = None,
) -> None:
    """Run processes of mainstay.toml against the servers that the environment names.

    One process alone takes the place of this command. Exit code 78 where a server is needed and
    not named.
    """
    from mainstay.cli.running import run_processes

    raise typer.Exit(run_processes(processes or ()))
