"""What an `Idempotency-Key` costs that is kept on Redis; every request has a new one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.orders import PRICED, keyed, keyless, ordered
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
        packages = ("fastapi", "uvicorn", "redis", "hiredis")
        middleware = "asgi-idempotency-header"
        bare = Served(
            "bare FastAPI",
            "benchmarks.lanes.keys_bare:app",
            ordered(),
            holds=PRICED,
            is_logged=False,
        )
        yield [
            serve(keyed(OURS_LANE, ours, variables, packages)),
            serve(bare),
            serve(keyless(ours, variables)),
            serve(keyed("redis-py by hand", "benchmarks.peers.keys_by_hand:app", variables)),
            serve(
                keyed(middleware, "benchmarks.peers.keys_middleware:app", variables, (middleware,))
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
