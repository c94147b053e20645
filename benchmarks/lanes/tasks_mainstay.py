"""Tasks with the library, as it is by default; what it does beside is said by the environment."""

from __future__ import annotations

from typing import Any

import celery
from sqlalchemy import text
from sqlalchemy.orm import Session

from benchmarks.lanes.tasks import BROKER, DATABASE, QUEUE, Counter, send_rounds
from mainstay import Service, Settings
from mainstay.resources.sqlalchemy import Database
from mainstay.tasks.celery import create_celery_app

counter = Counter()
service = Service(
    Settings(
        celery_broker_url=BROKER,
        celery_default_queue=QUEUE,
        database_url=DATABASE or None,
        host="127.0.0.1",
        metrics_port=0,
        **Settings.load().model_dump(include={"metrics_enabled", "log_level"}),
    ),
    *([Database()] if DATABASE else []),
)
app = create_celery_app(service)


@app.task(name="guarded", base=celery.Task)
def guarded(number: int) -> int:
    """Only the worker's consumer is ours."""
    return counter.done(number)


@app.task(name="noop", track_status=False)
def noop(number: int) -> int:
    return counter.done(number)


@app.task(name="tracked")
def tracked(number: int) -> int:
    return counter.done(number)


@app.task(name="effect", once=True, track_status=False)
def effect(number: int, session: Session) -> int:
    session.execute(
        text("insert into public.effects (number) values (:number)"), {"number": number}
    )
    return counter.done(number)


if __name__ == "__main__":
    import sys

    task: Any = app.tasks[sys.argv[1]]
    send_rounds(lambda number: task.apply_async((number,)))
