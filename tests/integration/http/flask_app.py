"""A Flask application for a server of its own process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import Response, jsonify, request

from mainstay import Settings
from mainstay.http.flask import create_app

app = create_app(
    Settings(
        env="test",
        service_name="orders",
        body_limit_bytes=1000,
        drain_delay_seconds=float(os.environ["DRAIN_DELAY"]),
        grace_seconds=float(os.environ["GRACE"]),
    ),
    __name__,
)


def wait_at_gate() -> None:
    """Wait for a file that the test makes."""
    while not Path(os.environ["GATE"]).exists():
        time.sleep(0.02)


@app.get("/quick")
def quick() -> dict[str, int]:
    return {"pid": os.getpid()}


@app.get("/slow")
def slow() -> dict[str, int]:
    print("begun", flush=True)  # noqa: T201 - the test waits for it
    wait_at_gate()
    return {"pid": os.getpid()}


@app.get("/address")
def address() -> dict[str, str]:
    return {"address": request.remote_addr or "", "scheme": request.scheme}


@app.post("/echo")
def echo() -> Any:
    return jsonify(request.get_json())


@app.get("/export")
def export() -> Response:
    def rows() -> Iterator[str]:
        for row in range(1000):
            if row == 500:
                raise RuntimeError("the database went away")
            yield f"row {row}\n" * 20

    return Response(rows(), mimetype="text/csv")


@app.get("/broken")
def broken() -> str:
    raise RuntimeError("as broken as can be")
