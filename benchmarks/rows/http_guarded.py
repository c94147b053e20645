"""… and traces of which none is sampled, a token, a rate limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.items import ANSWER, asked
from benchmarks.row import OURS_LANE, Lane, Row, at_most
from benchmarks.serving import Served, serving
from mainstay import Service, Settings
from mainstay.testing.otlp import OtlpReceiver

_SECRET = "for-these-measurements-and-nothing-else"


@contextmanager
def _lanes() -> Iterator[Sequence[Lane]]:
    signing = Service(Settings(env="test", jwt_secret_key=_SECRET))
    token = signing.tokens.issue("user-7", roles=["admin"])
    bearer = f"authorization: Bearer {token}"
    with OtlpReceiver() as otlp, serving() as serve:
        variables = {
            "JWT_SECRET_KEY": _SECRET,
            "APP_RATE_LIMIT": "1000000/second",
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.endpoint,
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
        }
        yield [
            serve(
                Served(
                    OURS_LANE,
                    "benchmarks.lanes.http_chassis:app",
                    asked(bearer, sampled=False),
                    ("fastapi", "uvicorn", "pyjwt", "limits", "opentelemetry-sdk"),
                    holds=ANSWER,
                    variables=variables,
                )
            ),
            serve(
                Served(
                    "bare FastAPI",
                    "benchmarks.lanes.http_bare:app",
                    asked(bearer, sampled=False),
                    holds=ANSWER,
                    is_logged=False,
                )
            ),
            serve(
                Served(
                    "usual stack",
                    "benchmarks.peers.http_guarded:app",
                    asked(bearer, sampled=False),
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
