"""The subject's tasks; run by `celery -A tests.chaos.subject.worker`."""

from __future__ import annotations

import os
import resource
import signal
import time
from contextlib import suppress
from pathlib import Path

from celery.exceptions import SoftTimeLimitExceeded
from sqlalchemy.orm import Session

from mainstay.errors import Unavailable
from mainstay.retries import Backoff
from mainstay.tasks.celery import Task, TaskQueue, create_celery_app
from tests.chaos.subject.service import (
    CONSUMER_TIMEOUT_SECONDS,
    QUEUE,
    begun,
    effect,
    service,
    wait_for,
)

_SPARE_BYTES = 64 * 2**20

_queue = TaskQueue(
    name=QUEUE, consumer_timeout_seconds=float(os.environ.get(CONSUMER_TIMEOUT_SECONDS, "1800"))
)
celery_app = create_celery_app(service, queues=[_queue])


@celery_app.task(name="record", once=True)
def record(unit: str, seconds: float = 0.0, gate: str = "", *, session: Session) -> None:
    """Leave the effect of *unit*, after working for a while, and not before *gate* is there."""
    begun(unit)
    wait_for(gate)
    time.sleep(seconds)
    effect(session.connection(), unit)


@celery_app.task(name="record_or_bury", once=True, profile="dead-letter")
def record_or_bury(unit: str, seconds: float = 0.0, *, session: Session) -> None:
    """The same in the other profile: a death of its worker is a dead letter."""
    begun(unit)
    time.sleep(seconds)
    effect(session.connection(), unit)


@celery_app.task(
    name="record_at_last",
    bind=True,
    once=True,
    backoff=Backoff(attempts=5, initial_seconds=0.5, max_seconds=2.0),
)
def record_at_last(self: Task, unit: str, failures: int, *, session: Session) -> None:
    """Fail in passing so many times, each time with the effect already written."""
    begun(unit)
    effect(session.connection(), unit)
    if self.request.retries < failures:
        raise Unavailable("the neighbour does not answer")


@celery_app.task(name="break_down", once=True)
def break_down(unit: str, *, session: Session) -> None:
    """Fail for good, with the effect already written."""
    begun(unit)
    effect(session.connection(), unit)
    raise ValueError(f"{unit} can never be done")


@celery_app.task(name="overrun", once=True, time_limit=3, soft_time_limit=1)
def overrun(unit: str, *, stubborn: bool, session: Session) -> None:
    """Work for longer than the limits allow; a stubborn one does not stop when asked to."""
    begun(unit)
    effect(session.connection(), unit)
    while True:
        with suppress(*[SoftTimeLimitExceeded] if stubborn else []):
            time.sleep(60)


@celery_app.task(name="exhaust", once=True)
def exhaust(unit: str, *, session: Session) -> None:
    """Ask for more memory than there is."""
    begun(unit)
    effect(session.connection(), unit)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _SPARE_BYTES, hard))
    try:
        bytearray(16 * _SPARE_BYTES)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@celery_app.task(name="die", once=True)
def die(unit: str, *, session: Session) -> None:
    """Be killed each time, as the kernel does it to a process that takes too much memory."""
    begun(unit)
    effect(session.connection(), unit)
    os.kill(os.getpid(), signal.SIGKILL)
