"""What it costs to commit a task with its effect, and how it comes from there to its broker.

The database syncs each commit to the disk, as PostgreSQL does by default.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks.environments import OURS
from benchmarks.programs import program, worker
from benchmarks.row import OURS_LANE, RATE, Figure, Lane, Row, at_least, at_most
from mainstay.processes import commands
from mainstay.processes.manifest import ProcessSpec
from mainstay.resources.sqlalchemy.migrate import upgrade
from mainstay.testing.servers import PostgreSQL, Redis

_MODULE = "benchmarks.lanes.outbox"
_WITHOUT = "without a task"
_BY_HAND = "by hand"
_PACKAGES = ("sqlalchemy", "asyncpg", "psycopg", "celery", "kombu", "redis")
_RELAYED = Figure("rate", "rows/s", lambda sample: sample.units / sample.others["seconds"])
_CONFIG = {"fsync": "on", "full_page_writes": "on", "autovacuum": "off"}
_P50, _P99 = Figure.other("p50", "ms"), Figure.other("p99", "ms")


@contextmanager
def _lanes(modes: dict[str, str], *, is_relayed: bool = False) -> Iterator[Sequence[Lane]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mainstay-bench-")))
        postgres = stack.enter_context(PostgreSQL(config=_CONFIG))
        broker = stack.enter_context(Redis())
        lanes = []
        for name, mode in modes.items():
            variables = {
                "DATABASE_URL": _database(postgres, mode),
                "CELERY_BROKER_URL": broker.url,
                "APP_HOST": "127.0.0.1",
                "APP_METRICS_PORT": "0",
                "APP_OUTBOX_LIMIT": "1000000",
            }
            if is_relayed:
                process = ProcessSpec("bench", "relay", "relay", target=f"{_MODULE}:app")
                _, *words = commands.command(
                    process, host="127.0.0.1", grace_seconds=5.0, alone=True
                )
                relay = program(words, output=folder / "relay.log", variables=variables)
                stack.enter_context(relay)
            output = folder / f"{mode}.log"
            asked = stack.enter_context(worker(_MODULE, mode, output=output, variables=variables))
            lanes.append(Lane(name, asked.round, _PACKAGES))
        yield lanes


def _database(postgres: PostgreSQL, name: str) -> str:
    url = postgres.create_database(name)
    upgrade(url, say=lambda _line: None)
    columns = "id uuid primary key, sku text, count integer, customer text"
    postgres.sql(f"create table public.orders ({columns})", database=name)
    return url


ROWS = (
    Row(
        "outbox.commit",
        "a transaction that inserts a row, with a task that leaves with it",
        unit="transaction",
        units=1_500,
        goals=(at_least(0.75, times=_WITHOUT, of=RATE),),
        lanes=partial(_lanes, {OURS_LANE: "with", _WITHOUT: "without"}),
        environments=(OURS,),
    ),
    Row(
        "outbox.relay",
        "tasks that wait in PostgreSQL, relayed to Redis by one relay",
        unit="row",
        units=30_000,
        # Where 48,000 was asked for, redis-py by hand came to 61,000.
        goals=(at_least(48_000, of=_RELAYED), at_least(0.79, times=_BY_HAND, of=_RELAYED)),
        lanes=partial(_lanes, {OURS_LANE: "relay", _BY_HAND: "by_hand"}),
        warm_up=2_000,
        environments=(OURS,),
    ),
    Row(
        "outbox.latency",
        "from the commit of a task until it is in Redis, 200 a second",
        unit="task",
        units=1_000,
        goals=(at_most(1.5, of=_P50), at_most(11, of=_P99)),
        lanes=partial(_lanes, {OURS_LANE: "latency"}, is_relayed=True),
        environments=(OURS,),
    ),
)
