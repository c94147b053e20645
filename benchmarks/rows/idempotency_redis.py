"""What an `Idempotency-Key` costs that is kept on Redis; every request has a new one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.orders import PRICED, gives_again, ordered
from benchmarks.row import OURS_LANE, Lane, Row, at_most
from benchmarks.serving import Served, serving
from mainstay.testing.servers import Redis


@contextmanager
def _lanes() -> Iterator[Sequence[Lane]]:
    with Redis() as redis, serving() as serve:
        ours = "benchmarks.lanes.keys_redis:app"
        variables = {
            "APP_AUTH_REQUIRED": "false",
            "APP_RATE_LIMIT": "none",
            "APP_IDEMPOTENCY_STORE": "redis",
            "REDIS_URL": redis.url,
        }
        yield [
            serve(
                Served(
                    OURS_LANE,
                    ours,
                    ordered(),
                    ("fastapi", "uvicorn", "redis", "hiredis"),
                    holds=PRICED,
                    variables=variables,
                    proof=gives_again,
                )
            ),
            serve(
                Served(
                    "bare FastAPI",
                    "benchmarks.lanes.keys_bare:app",
                    ordered(),
                    holds=PRICED,
                    is_logged=False,
                )
            ),
            serve(
                Served(
                    "without a key",
                    ours,
                    ordered(is_keyed=False),
                    holds=PRICED,
                    variables=variables,
                    server=None,
                )
            ),
            serve(
                Served(
                    "redis-py by hand",
                    "benchmarks.peers.keys_by_hand:app",
                    ordered(),
                    holds=PRICED,
                    variables=variables,
                    is_logged=False,
                    proof=gives_again,
                )
            ),
            serve(
                Served(
                    "asgi-idempotency-header",
                    "benchmarks.peers.keys_middleware:app",
                    ordered(),
                    ("asgi-idempotency-header",),
                    holds=PRICED,
                    variables=variables,
                    is_logged=False,
                    proof=gives_again,
                )
            ),
        ]


ROW = Row(
    "idempotency.redis",
    "FastAPI: a POST whose Idempotency-Key is kept on Redis",
    unit="request",
    units=3_000,
    goals=(at_most(1.8, times="bare FastAPI"),),
    lanes=_lanes,
)
