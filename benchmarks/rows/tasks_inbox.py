"""What it costs that a task's effect happens once: a row in the transaction of the effect."""

from __future__ import annotations

from benchmarks.row import at_most
from benchmarks.tasks import BARE, bare, mainstay, row

ROWS = tuple(
    row(
        f"tasks.{broker}.inbox",
        "a task that inserts a row, once",
        broker,
        [bare("effect"), mainstay("effect")],
        [at_most(1.15, times=BARE)],
        has_database=True,
        units=1_000,
    )
    for broker in ("rabbitmq", "redis")
)
