"""A service that only sends; run by `python -m tests.chaos.subject.sender FOLDER SEED`.

It writes down what it sends and what it is told, in the ledger of the stage. Killed in between, it
leaves units of which nobody knows what became.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

from mainstay.errors import MainstayError
from tests.chaos.ledger import Ledger, told_by
from tests.chaos.subject.service import CALLS_QUEUE, calls
from tests.chaos.subject.worker import celery_app

_PAUSE_SECONDS = 0.05


def send(ledger: Ledger) -> None:
    """Send one task after the other, and make one call after the other."""
    while True:
        for ask in (_send_task, _call):
            unit = ledger.submit()
            try:
                ask(unit)
            except MainstayError as error:
                ledger.settle(unit, told_by(error))
            else:
                ledger.settle(unit, "accepted")
            time.sleep(_PAUSE_SECONDS)


def _send_task(unit: str) -> None:
    celery_app.send_task("record", (unit,), task_id=unit)


def _call(unit: str) -> None:
    calls.call(CALLS_QUEUE, {"unit": unit}, function="record", id=unit)


def main() -> int:
    """Send until told to stop."""
    folder, seed = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # Another incarnation must not give its units the ids of an earlier one.
    ledger = Ledger(Path(folder), int(seed), first=time.time_ns())
    threading.Thread(target=send, args=(ledger,), daemon=True).start()
    signal.sigwait({signal.SIGTERM})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
