"""The application of connections_app.py as one of Flask's, behind the bridge."""

from __future__ import annotations

import gc
import time
from typing import Any

from flask import Flask, request

from mainstay import Settings
from mainstay.http import connections
from mainstay.http.bridge import Bridge
from mainstay.http.flask import create_app
from tests.integration.http.connections_app import LONG

flask: Flask = create_app(
    Settings(env="test", service_name="orders", drain_delay_seconds=0.0), __name__
)
app = Bridge(flask)
begun: list[str] = []
stored: list[bytes] = []


@flask.get("/slow")
def slow() -> Any:
    time.sleep(0.05)
    return flask.json.response(None)


@flask.get("/long")
def long() -> bytes:
    begun.append("long")
    return LONG


@flask.get("/begun")
def count() -> Any:
    return flask.json.response(len(begun))


@flask.get("/unsent")
def unsent() -> Any:
    found: list[Any] = [one for one in gc.get_objects() if isinstance(one, connections.Limited)]
    return flask.json.response(sum(one.transport.get_write_buffer_size() for one in found))


@flask.get("/peer")
def peer() -> Any:
    return flask.json.response(int(request.environ["REMOTE_PORT"]))


@flask.post("/stored")
def store() -> Any:
    stored.append(request.get_data())
    return flask.json.response(len(stored[-1]))


@flask.post("/done")
def do() -> Any:
    stored.append(b"")  # whatever the body
    return flask.json.response(None)


@flask.get("/stored")
def count_stored() -> Any:
    return flask.json.response(len(stored))
