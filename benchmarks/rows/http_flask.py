"""The edge and the guarded edge around Flask, on the server that `mainstay run` gives it; the usual
stack on granian, which takes the least of the processor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

from benchmarks.items import ANSWER, asked, bearer, guarded_by
from benchmarks.row import OURS_LANE, Lane, Row, at_most
from benchmarks.serving import Served, serving
from mainstay.testing.otlp import OtlpReceiver

_USUAL = ("prometheus-flask-exporter", "structlog")
_GUARDS = ("opentelemetry-instrumentation-flask", "flask-jwt-extended", "flask-limiter")


@contextmanager
def _lanes(*, is_guarded: bool) -> Iterator[Sequence[Lane]]:
    with OtlpReceiver() if is_guarded else nullcontext() as otlp, serving() as serve:
        variables: Mapping[str, str] = {"APP_AUTH_REQUIRED": "false", "APP_RATE_LIMIT": "none"}
        ask, peer = asked(), "benchmarks.peers.flask_usual:app"
        if otlp is not None:
            variables = guarded_by(otlp.endpoint)
            ask, peer = asked(bearer(), sampled=False), "benchmarks.peers.flask_guarded:app"
        yield [
            serve(
                Served(
                    OURS_LANE,
                    "benchmarks.lanes.flask_chassis:app",
                    ask,
                    ("flask", "werkzeug", "uvicorn"),
                    holds=ANSWER,
                    variables=variables,
                )
            ),
            serve(
                Served(
                    "bare Flask",
                    "benchmarks.lanes.flask_bare:asgi",
                    ask,
                    holds=ANSWER,
                    is_logged=False,
                )
            ),
            serve(
                Served(
                    "usual stack",
                    peer,
                    ask,
                    ("granian", *_USUAL, *(_GUARDS if is_guarded else ())),
                    holds=ANSWER,
                    variables=variables,
                    server="granian",
                )
            ),
        ]


ROWS = (
    Row(
        "http.flask.edge",
        "Flask: id, W3C context, metrics, JSON access line",
        unit="request",
        units=4_000,
        goals=(at_most(1.15, times="bare Flask"),),
        lanes=partial(_lanes, is_guarded=False),
    ),
    Row(
        "http.flask.guarded",
        "Flask: the edge, traces (none sampled), JWT, rate limit in memory",
        unit="request",
        units=4_000,
        goals=(at_most(1.6, times="bare Flask"),),
        lanes=partial(_lanes, is_guarded=True),
    ),
)
