"""The edge without a framework inside."""

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
                    "benchmarks.lanes.asgi_edge:edge",
                    asked(),
                    ("uvicorn",),
                    holds=ANSWER,
                    variables={"APP_AUTH_REQUIRED": "false"},
                )
            ),
            serve(
                Served(
                    "raw ASGI",
                    "benchmarks.lanes.asgi_bare:app",
                    asked(),
                    holds=ANSWER,
                    is_logged=False,
                )
            ),
        ]


ROW = Row(
    "http.asgi",
    "the edge on an ASGI application without a framework",
    unit="request",
    units=8_000,
    goals=(at_most(12, over="raw ASGI"),),
    lanes=_lanes,
)
