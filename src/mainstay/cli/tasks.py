"""``mainstay tasks``: what has become of tasks, and what is to become of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from mainstay.errors import Conflict, Misconfigured, NotFound

if TYPE_CHECKING:
    from mainstay.config import Settings
    from mainstay.tasks.celery import App
    from mainstay.tasks.status import State, TaskStatus

__all__ = ["app"]

app = typer.Typer(
    name="tasks",
    help="See tasks, send failed and lost ones again, revoke those that wait.",
    no_args_is_help=True,
)

Service = Annotated[
    str | None, typer.Option(help="A service of mainstay.toml; all of them unless told.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_NOTHING_KEPT = (
    "lost, and their messages are not kept any more: {}; send new tasks instead, and revoke these "
    "(`mainstay tasks revoke ID`)"
)
Id = Annotated[str, typer.Argument(metavar="ID", help="The task's id.")]


@app.command("ls")
def ls(
    state: Annotated[
        str | None,
        typer.Option(
            help="waiting, started, progress, retrying, lost, success, failure or revoked: only "
            "those."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many.")] = 50,
    service: Service = None,
    as_json: AsJson = False,
) -> None:
    """List tasks, the newest first."""
    wanted = _state(state)
    found: list[TaskStatus] = []
    for celery_app in _apps(service):
        store = celery_app.reports.store
        if store is not None:
            found += store.newest(state=wanted, limit=limit)
    found = sorted(found, key=lambda status: -status.updated_at)[:limit]
    if as_json:
        typer.echo(json.dumps({"tasks": [one.as_dict() for one in found]}, indent=2, default=str))
        return
    if not found:
        typer.echo("no tasks")
        return
    rows = [("ID", "NAME", "STATE", "ATTEMPTS", "QUEUE", "CHANGED")]
    rows += [
        (one.id, one.name or "-", one.state, str(one.attempts), one.queue or "-", _time(one))
        for one in found
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


@app.command("show")
def show(id: Id, service: Service = None, as_json: AsJson = False) -> None:
    """Show one task: where it is, its result or its error."""
    with _one(id, service) as (_, status):
        shown = status.as_dict() | {"updated_at": _time(status)}
    if as_json:
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=False, default=str))
        return
    for name, value in shown.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        typer.echo(f"{name}: {text}")


@app.command("retry")
def retry(
    id: Annotated[str | None, typer.Argument(metavar="ID", help="The task's id.")] = None,
    all_lost: Annotated[
        bool, typer.Option("--all-lost", help="Every task that the broker has lost.")
    ] = False,
    service: Service = None,
) -> None:
    """Send a failed task again, from its dead letter; or lost ones, from what is kept of them."""
    if (id is None) is not all_lost:
        raise typer.BadParameter("give the ID of one task, or --all-lost, and not both")
    if id is None:
        _retry_all_lost(service)
    else:
        _retry(id, service)


def _retry(id: str, service: str | None) -> None:
    from mainstay.cli.dead import stores
    from mainstay.tasks.status import State, TaskStatus

    with _one(id, service) as (celery_app, status):
        if status.state is State.LOST and celery_app.lost is not None:
            if celery_app.lost.retry([id]).missing:
                raise NotFound(_NOTHING_KEPT.format(id))
            typer.echo(f"{id} waits again on {status.queue}")
            return
        if status.state is not State.FAILURE:
            raise Conflict(
                f"task {id} is {status.state}: only one that has failed or is lost is sent again"
            )
        for store in stores(celery_app.service.settings):
            for queue in store.queues():
                if not store.retry(queue, lambda letter: letter.id == id):
                    continue
                kept = celery_app.reports.store
                if kept is not None:  # changes nothing where a worker was quicker
                    kept.record(TaskStatus(id=id, name=status.name, queue=queue))
                typer.echo(f"{id} waits again on {queue}")
                return
    raise NotFound(
        f"task {id} has failed and has no dead letter any more: somebody put it back or threw it "
        "away; send it anew"
    )


def _retry_all_lost(service: str | None) -> None:
    sent = 0
    missing: list[str] = []
    for celery_app in _apps(service):
        if celery_app.lost is not None and celery_app.lost.is_named:
            for found in celery_app.lost.retry_all():
                sent += len(found.messages)
                missing += found.missing
    typer.echo(f"{sent} lost tasks wait again" if sent else "no lost task was sent again")
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise NotFound(_NOTHING_KEPT.format(missing[0] + more))


@app.command("revoke")
def revoke(id: Id, service: Service = None) -> None:
    """Call off a task that has not begun; one at work goes on."""
    from dataclasses import replace

    from mainstay.tasks.status import State

    with _one(id, service) as (celery_app, status):
        if status.state.is_final:
            raise Conflict(f"task {id} is {status.state} already: there is nothing to call off")
        kept = celery_app.reports.store
        if kept is not None:
            kept.record(replace(status, state=State.REVOKED))
        if celery_app.outbox is not None:
            celery_app.outbox.withdraw("task", id)
        # Workers that hold it back for its time to come are told too.
        celery_app.control.revoke(id)
    typer.echo(f"{id} is called off")


@contextmanager
def _one(id: str, service: str | None) -> Iterator[tuple[App, TaskStatus]]:
    for celery_app in _apps(service):
        store = celery_app.reports.store
        status = None if store is None else store.find(id)
        if status is not None:
            yield celery_app, status
            return
    raise NotFound(f"no task has the id {id!r}: `mainstay tasks ls` shows the newest")


def _apps(service: str | None) -> Iterator[App]:
    from mainstay.cli.services import selected

    asked = False
    for handle in selected(service):
        if handle.settings.celery_broker_url is not None:
            asked = True
            celery_app = _app(handle.settings)
            try:
                yield celery_app
            finally:
                celery_app.service.lifecycle.stop()
    if not asked:
        raise Misconfigured(
            "no broker of tasks is named: set CELERY_BROKER_URL, or start `mainstay dev`"
        )


def _app(settings: Settings) -> App:
    from mainstay.service import Service as MainstayService
    from mainstay.tasks.celery import create_celery_app

    if settings.database_url is None:
        return create_celery_app(settings)
    from mainstay.resources.sqlalchemy import Database

    return create_celery_app(MainstayService(settings, Database()))


def _state(name: str | None) -> State | None:
    from mainstay.tasks.status import State

    if name is None:
        return None
    try:
        return State(name)
    except ValueError:
        raise typer.BadParameter(
            f"{name!r} is no state: {', '.join(State)}", param_hint="--state"
        ) from None


def _time(status: TaskStatus) -> str:
    return datetime.fromtimestamp(status.updated_at, UTC).isoformat(timespec="seconds")
