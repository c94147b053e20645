"""… and traces of which none is sampled, a token, a rate limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.items import ANSWER, asked, bearer, guarded_by
from benchmarks.row import OURS_LANE, Lane, Row, at_most
from benchmarks.serving import Served, serving
from mainstay.testing.otlp import OtlpReceiver


@contextmanager
def _lanes() -> Iterator[Sequence[Lane]]:
    with OtlpReceiver() as otlp, serving() as serve:
        variables, ask = guarded_by(otlp.endpoint), asked(bearer(), sampled=False)
        yield [
            serve(
                Served(
                    OURS_LANE,
                    "benchmarks.lanes.http_chassis:app",
                    ask,
                    ("fastapi", "uvicorn", "pyjwt", "limits", "opentelemetry-sdk"),
                    holds=ANSWER,
                    variables=variables,
                )
            ),
            serve(
                Served(
                    "bare FastAPI",
                    "benchmarks.lanes.http_bare:app",
                    ask,
                    holds=ANSWER,
                    is_logged=False,
                )
            ),
            serve(
                Served(
                    "usual stack",
                    "benchmarks.peers.http_guarded:app",
                    ask,
                    (
                        "asgi-correlation-id",
                        "prometheus-fastapi-instrumentator",
                        "structlog",
                        "opentelemetry-instrumentation-fastapi",
                        "slowapi",
                    ),
                    holds=ANSWER,
                    variables=variables,
                )
            ),
        ]


ROW = Row(
    "http.guarded",
    "FastAPI: the edge, traces (none sampled), JWT, rate limit in memory",
    unit="request",
    units=4_000,
    goals=(at_most(1.5, times="bare FastAPI"),),
    lanes=_lanes,
)
