"""The edge with a span a request, sent over OTLP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.items import ANSWER, asked
from benchmarks.row import OURS_LANE, Lane, Row, at_most
from benchmarks.serving import Served, serving
from mainstay.testing.otlp import OtlpReceiver

_PEERS = {
    "OTel contrib alone": ("benchmarks.peers.http_contrib:app", False),
    "FastAPI's own alone": ("benchmarks.peers.http_native:app", False),
    "usual stack": ("benchmarks.peers.http_everything:app", True),
}


@contextmanager
def _lanes() -> Iterator[Sequence[Lane]]:
    with OtlpReceiver() as otlp, serving() as serve:
        sent = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.endpoint,
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
        }
        yield [
            serve(
                Served(
                    OURS_LANE,
                    "benchmarks.lanes.http_chassis:app",
                    asked(),
                    ("fastapi", "uvicorn", "opentelemetry-sdk"),
                    holds=ANSWER,
                    variables={**sent, "APP_AUTH_REQUIRED": "false", "APP_RATE_LIMIT": "none"},
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
            *(
                serve(
                    Served(
                        name,
                        app,
                        asked(),
                        ("opentelemetry-instrumentation-fastapi",),
                        holds=ANSWER,
                        variables=sent,
                        is_logged=is_logged,
                    )
                )
                for name, (app, is_logged) in _PEERS.items()
            ),
        ]
        assert len(otlp.spans) > 1_000, "the spans were not sent"


ROW = Row(
    "http.spans",
    "FastAPI: the edge, with OpenTelemetry SDK spans",
    unit="request",
    units=3_000,
    goals=(at_most(1.9, times="bare FastAPI"),),
    lanes=_lanes,
)
