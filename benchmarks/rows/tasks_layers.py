"""What the layers on Celery cost a worker: the guard alone, the stations, all that they tell."""

from __future__ import annotations

from benchmarks.row import at_most
from benchmarks.tasks import BARE, bare, mainstay, row

_GUARD = "guard alone"
_FULL = "with metrics, line, trace"


ROWS = tuple(
    row(
        f"tasks.{broker}.layers",
        "a task that does nothing",
        broker,
        [
            bare(),
            mainstay("guarded", name=_GUARD),
            mainstay("noop"),
            mainstay("noop", name=_FULL, is_quiet=False),
        ],
        [
            at_most(1.06, times=BARE, lane=_GUARD),
            at_most(1.05, times=BARE),
            at_most(1.15, times=BARE, lane=_FULL),
        ],
    )
    for broker in ("rabbitmq", "redis")
)
