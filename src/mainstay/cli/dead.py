"""``mainstay dead``: what could not be done, why, and what is to become of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mainstay.errors import Misconfigured, NotFound
from mainstay.logs.redaction import Redaction

if TYPE_CHECKING:
    from mainstay.config import Settings
    from mainstay.deadletters import Cause, DeadLetter, DeadLetters

__all__ = ["app", "stores"]

app = typer.Typer(
    name="dead",
    help="See, put back or throw away what could not be done, whatever broker it came over.",
    no_args_is_help=True,
)

Service = Annotated[
    str | None, typer.Option(help="A service of mainstay.toml; all of them unless told.")
]
Queue = Annotated[str | None, typer.Option(help="Only what was for this queue.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Id = Annotated[str | None, typer.Argument(metavar="ID", help="The id that `show` and `ls` tell.")]
# Some seconds' worth on RabbitMQ, where one is found by looking at all before it.
_PROGRESS_EVERY = 5_000
AllLike = Annotated[
    str | None,
    typer.Option(metavar="ID", help="Every letter that died of the same cause as this one."),
]


@dataclass(frozen=True, slots=True)
class Found:
    """A dead letter, and the store that has it."""

    store: DeadLetters
    queue: str
    letter: DeadLetter


@app.command("ls")
def ls(service: Service = None, queue: Queue = None, as_json: AsJson = False) -> None:
    """List the causes of death, the most frequent first."""
    from mainstay.deadletters import by_cause

    causes = by_cause(found.letter for found in _letters(service, queue))
    if as_json:
        typer.echo(json.dumps({"causes": [_cause(one) for one in causes]}, indent=2))
        return
    if not causes:
        typer.echo("no dead letters")
        return
    rows = [("COUNT", "QUEUE", "KIND", "NAME", "REASON", "LAST", "EXAMPLE")]
    rows += [
        (
            str(one.count),
            one.queue,
            one.kind,
            one.name or "-",
            one.reason,
            _time(one.last_at),
            one.example_id,
        )
        for one in causes
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo(line.rstrip())


@app.command("show")
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="The id that `ls` tells.")],
    service: Service = None,
    queue: Queue = None,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter whole: its reason, its headers and its body."""
    letter, redaction = _one(id, service, queue).letter, Redaction()
    shown = {
        "id": letter.id,
        "kind": letter.kind,
        "queue": letter.queue,
        "name": letter.name,
        "reason": letter.reason,
        "detail": letter.detail,
        "died_at": _time(letter.died_at),
        "headers": redaction.value("", dict(letter.headers)),
        "body": _shown(letter.body, redaction),
    }
    if as_json:
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    for name, value in shown.items():
        if isinstance(value, dict):
            typer.echo(f"{name}:")
            for header, text in value.items():
                typer.echo(f"  {header}: {text}")
        else:
            typer.echo(f"{name}: {value}")


def _shown(body: bytes, redaction: Redaction) -> str:
    """Return *body* without the secrets in it: what is retried has them all the same."""
    text = body.decode(errors="replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return redaction.text(text)
    return json.dumps(redaction.value("", document), ensure_ascii=False)


@app.command("retry")
def retry(
    id: Id = None, all_like: AllLike = None, service: Service = None, queue: Queue = None
) -> None:
    """Put a letter back on its queue, to be done again."""
    _act(id, all_like, service, queue, lambda store, *what: store.retry(*what), "put back")


@app.command("discard")
def discard(
    id: Id = None, all_like: AllLike = None, service: Service = None, queue: Queue = None
) -> None:
    """Throw a letter away for good."""
    _act(id, all_like, service, queue, lambda store, *what: store.discard(*what), "thrown away")


def stores(settings: Settings) -> Iterator[DeadLetters]:
    """Return where the brokers of *settings* keep their dead letters, each broker once; and the
    service's database, which has those that no broker took.
    """
    urls = dict.fromkeys(
        url
        for url in (settings.celery_broker_url, settings.rabbitmq_url, settings.redis_url)
        if url
    )
    for url in urls:
        scheme = url.partition(":")[0]
        if scheme in ("redis", "rediss"):
            from mainstay.resources.redis import RedisDeadLetters
            from mainstay.resources.redis.client import connect
            from mainstay.rpc.redis_streams.layout import requeue as requeue_call
            from mainstay.tasks.celery.transport import requeue as requeue_task

            yield RedisDeadLetters(connect(url), {"task": requeue_task, "call": requeue_call})
        elif scheme in ("amqp", "amqps"):
            from mainstay.resources.amqp import AmqpDeadLetters

            yield AmqpDeadLetters(
                url,
                management_url=settings.rabbitmq_management_url,
                known=(settings.celery_default_queue, settings.data_queue_name),
            )
    if settings.database_url:
        from mainstay.resources.sqlalchemy import Database
        from mainstay.resources.sqlalchemy.deadletters import DatabaseDeadLetters

        database = Database(url=settings.database_url)
        try:
            yield DatabaseDeadLetters(database)
        finally:
            database.close()


def _letters(service: str | None, queue: str | None) -> Iterator[Found]:
    from mainstay.cli.services import selected

    seen: set[tuple[str, str]] = set()  # services may share a broker
    progress = _Progress("looked at")
    asked = False
    for handle in selected(service):
        for store in stores(handle.settings):
            asked = True
            for name in store.queues():
                if queue not in (None, name):
                    continue
                for letter in store.letters(name):
                    progress.step()
                    mark = (type(store).__name__ + name, letter.position + letter.id)
                    if mark not in seen:
                        seen.add(mark)
                        yield Found(store, name, letter)
    if not asked:
        raise Misconfigured(
            "no broker is named: set REDIS_URL, RABBITMQ_URL or CELERY_BROKER_URL, or start "
            "`mainstay dev`"
        )


class _Progress:
    """Says on standard error how many letters were *done* so far, when there are many."""

    def __init__(self, done: str) -> None:
        self._done = done
        self._count = 0

    def step(self) -> None:
        self._count += 1
        if self._count % _PROGRESS_EVERY == 0:
            typer.echo(f"{self._count} dead letters {self._done} so far", err=True)


def _one(id: str, service: str | None, queue: str | None) -> Found:
    for found in _letters(service, queue):
        if found.letter.id == id:
            return found
    raise NotFound(f"no dead letter has the id {id!r}: `mainstay dead ls` shows examples")


def _act(
    id: str | None,
    all_like: str | None,
    service: str | None,
    queue: str | None,
    act: Callable[[DeadLetters, str, Callable[[DeadLetter], bool]], int],
    done: str,
) -> None:
    if bool(id) == bool(all_like):
        raise typer.BadParameter("give one ID, or --all-like ID")
    wanted = _one(id or all_like or "", service, queue)
    like = wanted.letter

    progress = _Progress("gone through")

    def matching(letter: DeadLetter) -> bool:
        progress.step()
        if all_like is None:
            return letter.id == like.id
        return (letter.kind, letter.name, letter.reason) == (like.kind, like.name, like.reason)

    count = act(wanted.store, wanted.queue, matching)
    typer.echo(f"{count} {done}: {wanted.queue} {like.name} ({like.reason})")


def _cause(cause: Cause) -> dict[str, Any]:
    return {
        "count": cause.count,
        "queue": cause.queue,
        "kind": cause.kind,
        "name": cause.name,
        "reason": cause.reason,
        "first_at": _time(cause.first_at),
        "last_at": _time(cause.last_at),
        "example_id": cause.example_id,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
