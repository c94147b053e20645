"""What it costs to keep what became of a task in PostgreSQL, for whoever asks."""

from __future__ import annotations

from benchmarks.row import at_most
from benchmarks.tasks import BARE, bare, mainstay, row

ROWS = tuple(
    row(
        f"tasks.{broker}.results",
        "a task whose status and result are kept in PostgreSQL",
        broker,
        [bare(), mainstay("tracked"), bare(name="Celery's database backend", is_stored=True)],
        [at_most(1.3, times=BARE)],
        has_database=True,
        units=1_000,
    )
    for broker in ("rabbitmq", "redis")
)
