"""What every request pays: an id, the W3C context, metrics, one JSON line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.items import ANSWER, asked
from benchmarks.row import OURS_LANE, Lane, Row, at_most
from benchmarks.serving import Served, serving


@contextmanager
def _lanes() -> Iterator[Sequence[Lane]]:
    with serving() as serve:
        yield [
            serve(
                Served(
                    OURS_LANE,
                    "benchmarks.lanes.http_chassis:app",
                    asked(),
                    ("fastapi", "uvicorn"),
                    holds=ANSWER,
                    variables={"APP_AUTH_REQUIRED": "false", "APP_RATE_LIMIT": "none"},
                )
            ),
            serve(
                Served(
                    "bare FastAPI",
                    "benchmarks.lanes.http_bare:app",
                    asked(),
                    holds=ANSWER,
                    is_logged=False,
                )
            ),
            serve(
                Served(
                    "usual stack",
                    "benchmarks.peers.http_usual:app",
                    asked(),
                    ("asgi-correlation-id", "prometheus-fastapi-instrumentator", "structlog"),
                    holds=ANSWER,
                )
            ),
        ]


ROW = Row(
    "http.edge",
    "FastAPI: id, W3C context, metrics, JSON access line",
    unit="request",
    units=4_000,
    goals=(at_most(1.25, times="bare FastAPI"),),
    lanes=_lanes,
)
