"""The subject's server of calls; run by `python -m tests.chaos.subject.callee`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from sqlalchemy.orm import Session

from mainstay.errors import AlreadyDone
from mainstay.resources.sqlalchemy import inbox
from mainstay.rpc import Call, Functions, run
from tests.chaos.subject.service import (
    CALLS_QUEUE,
    CONCURRENCY,
    begun,
    database,
    effect,
    service,
    wait_for,
)

functions = Functions()
_session: ContextVar[Session] = ContextVar("session")


@functions.function
def record(data: dict[str, Any]) -> str:
    """Leave the effect of a unit, after working for a while, and not before its gate is there."""
    unit = str(data["unit"])
    wait_for(data.get("gate", ""))
    time.sleep(data.get("seconds", 0.0))
    effect(_session.get().connection(), unit)
    return unit


@functions.function
def echo(data: Any) -> Any:
    """Answer with what was sent."""
    return data


def once(call: Call, work: Callable[[], Any]) -> Any:
    """Do a call whose effect and the note that it is done are one transaction."""
    if call.function != "record":
        return work()
    unit = str(call.data["unit"])
    begun(unit)
    name = inbox.identity("call", call.id)
    try:
        with database.session() as session, inbox.deduplicated(session, name):
            _session.set(session)
            return work()
    except AlreadyDone:
        return unit


def main() -> int:
    """Serve calls until told to stop."""
    concurrency = int(os.environ.get(CONCURRENCY, "16"))
    return run(
        service, queue=CALLS_QUEUE, target=functions, concurrency=concurrency, deduplicate=once
    )


if __name__ == "__main__":
    raise SystemExit(main())
