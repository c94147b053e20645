"""What an `Idempotency-Key` costs that is kept in the database, beside the order it stands for.

The bound has the same statements, in the same two transactions, by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.orders import keyed, keyless
from benchmarks.row import OURS_LANE, Lane, Row, at_most
from benchmarks.serving import serving
from mainstay.resources.sqlalchemy.migrate import upgrade
from mainstay.testing.servers import PostgreSQL

_BY_HAND = "by hand"


@contextmanager
def _lanes() -> Iterator[Sequence[Lane]]:
    with PostgreSQL() as postgres, serving() as serve:
        ours = "benchmarks.lanes.keys_database:app"
        variables = {
            "APP_AUTH_REQUIRED": "false",
            "APP_RATE_LIMIT": "none",
            "DATABASE_URL": _database(postgres),
        }
        packages = ("fastapi", "uvicorn", "sqlalchemy", "asyncpg")
        yield [
            serve(keyed(OURS_LANE, ours, variables, packages)),
            serve(keyed(_BY_HAND, "benchmarks.lanes.keys_by_hand:app", variables)),
            serve(keyless(ours, variables)),
        ]


def _database(postgres: PostgreSQL) -> str:
    url = postgres.create_database("bench")
    upgrade(url, say=lambda _line: None)
    columns = "id uuid primary key, sku text, count integer, customer text"
    postgres.sql(f"create table public.orders ({columns})", database="bench")
    return url


ROW = Row(
    "idempotency.database",
    "FastAPI: a POST whose Idempotency-Key is kept in PostgreSQL, beside its effect",
    unit="request",
    units=1_500,
    goals=(at_most(1.15, times=_BY_HAND),),
    lanes=_lanes,
)
