"""Bare Celery, with what it has itself against losing tasks: late acknowledgement, quorum queues.

https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/rabbitmq.html
"""

from __future__ import annotations

import sys
from typing import Any

from celery import Celery, signals
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from benchmarks.lanes.tasks import BROKER, DATABASE, IS_QUORUM, QUEUE, RESULTS, Counter, send_rounds

counter = Counter()
app = Celery("bench", broker=BROKER, backend=RESULTS or None)
app.conf.update(
    task_default_queue=QUEUE,
    task_default_exchange=QUEUE,
    task_default_routing_key=QUEUE,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_ignore_result=not RESULTS,
    broker_connection_retry_on_startup=True,
)
if IS_QUORUM:
    app.conf.update(task_default_queue_type="quorum", task_default_exchange_type="topic")
engines: list[Any] = []


@signals.worker_process_init.connect  # type: ignore[untyped-decorator] # it has no types
def connect(**_: object) -> None:
    if DATABASE:
        engines.append(create_engine(DATABASE.replace("postgresql:", "postgresql+psycopg:")))


@app.task(name="noop")  # type: ignore[untyped-decorator] # likewise
def noop(number: int) -> int:
    return counter.done(number)


@app.task(name="effect")  # type: ignore[untyped-decorator] # likewise
def effect(number: int) -> int:
    with Session(engines[0]) as session:
        session.execute(
            text("insert into public.effects (number) values (:number)"), {"number": number}
        )
        session.commit()
    return counter.done(number)


if __name__ == "__main__":
    task: Any = app.tasks[sys.argv[1]]
    send_rounds(lambda number: task.apply_async((number,)))
