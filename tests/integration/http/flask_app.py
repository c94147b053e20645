"""A Flask application for a server of its own process."""

from __future__ import annotations

import multiprocessing
import os
import time
from typing import Any

from flask import Flask, jsonify, request

from mainstay import Settings
from mainstay.http.flask import create_app

app = create_app(
    Settings(
        env="test",
        service_name="orders",
        body_limit_bytes=1000,
        drain_delay_seconds=float(os.environ["DRAIN_DELAY"]),
        grace_seconds=20.0,
    ),
    __name__,
)


def made_slowly() -> Flask:
    """Make the application; a worker takes its time for it."""
    if multiprocessing.parent_process() is not None:
        print("loading", os.getpid(), flush=True)  # noqa: T201 - the test waits for it
        time.sleep(2.0)
    return app


@app.get("/slow/<float:seconds>")
def slow(seconds: float) -> dict[str, int]:
    print("begun", flush=True)  # noqa: T201 - the test waits for it
    time.sleep(seconds)
    return {"pid": os.getpid()}


@app.post("/echo")
def echo() -> Any:
    return jsonify(request.get_json())


@app.get("/broken")
def broken() -> str:
    raise RuntimeError("as broken as can be")
