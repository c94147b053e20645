"""What malformed messages are sent to.

A worker, `celery -A tests.chaos.target worker`, and a server of calls,
`python -m tests.chaos.target QUEUE`. Both write down, outside of anything under test, what they did
to its end, a line of words each.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from celery import signals

from mainstay import Service
from mainstay.config import Settings
from mainstay.resources.sqlalchemy import Database
from mainstay.rpc import run
from mainstay.rpc.entry import Call
from mainstay.tasks.celery import create_celery_app
from tests.chaos.mutations import AFTER, NOTE, UNIT, units_in

__all__ = ["DONE", "service"]

DONE = "CHAOS_DONE"

service = Service(Settings, Database())
celery_app = create_celery_app(service)
# Its tasks are not `shared`: who reads these names has other applications, with other tasks.


def _write(*facts: object) -> None:
    for unit in units_in(" ".join(map(str, facts)))[:1]:
        with Path(os.environ[DONE]).open("ab", buffering=0) as file:
            file.write(f"{unit}\n".encode())


def _succeeded(sender: Any = None, **_: object) -> None:
    if sender.name != AFTER:
        request = sender.request
        _write(request.get(UNIT), request.id, request.root_id, request.args, request.kwargs)


signals.task_success.connect(_succeeded)


@celery_app.task(shared=False, name=NOTE)
def note(unit: str) -> str:
    return unit


@celery_app.task(shared=False, name=AFTER)
def after(unit: str) -> None: ...


@celery_app.task(shared=False, name="linger")
def linger(unit: str) -> str:
    time.sleep(0.5)
    return unit


@celery_app.task(shared=False, name="hungry")
def hungry(unit: str) -> None:
    raise MemoryError(unit)


@celery_app.task(shared=False, name="die")
def die(unit: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _called(call: Call, outcome: str) -> None:
    if outcome == "done":
        _write(call.id, call.data)


def main() -> int:
    """Serve calls until told to stop."""
    return run(
        Settings.load(),
        queue=sys.argv[1],
        target={NOTE: lambda data: data},
        on_end=_called,
        waiting_limit=1_000_000,
    )


if __name__ == "__main__":
    raise SystemExit(main())
