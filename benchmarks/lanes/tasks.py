"""What every worker of the rows about tasks counts, and what its sender waits for.

Needs nothing but the standard library, so that it runs in every environment.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.lanes.asked import answer_rounds

__all__ = ["BROKER", "DATABASE", "IS_QUORUM", "QUEUE", "RESULTS", "Counter", "send_rounds"]

BROKER = os.environ.get("BENCH_BROKER", "")
DATABASE = os.environ.get("BENCH_DATABASE", "")
QUEUE = os.environ.get("BENCH_QUEUE", "bench")
RESULTS = os.environ.get("BENCH_RESULTS", "")
IS_QUORUM = BROKER.startswith("amqp")
_PATIENCE_SECONDS = 300.0


def _told() -> Path:
    return Path(os.environ["BENCH_TOLD"])


class Counter:
    """Counts in the worker's only child, and tells when the last task of a round was done."""

    def __init__(self) -> None:
        self._done = 0

    def done(self, number: int) -> int:
        """Task *number* is done; they are numbered downwards, and 0 is the last."""
        self._done += 1
        if number == 0:
            _told().write_text(str(self._done))
            self._done = 0
        return number


def send_rounds(send: Callable[[int], object]) -> None:
    """Send as many tasks as a round has, and wait until the worker has done the last."""

    def send_round(units: int) -> None:
        _told().unlink(missing_ok=True)
        for number in reversed(range(units)):
            send(number)
        until = time.monotonic() + _PATIENCE_SECONDS
        while not (_told().exists() and (done := _told().read_text())):
            if time.monotonic() > until:
                raise TimeoutError("the tasks were not done")
            time.sleep(0.01)
        if int(done) != units:
            raise ValueError(f"{done} of {units} tasks were done")

    answer_rounds(send_round)
