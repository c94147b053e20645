"""A call server as a process: what it says, what it answers, how it ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mainstay import context as contexts
from mainstay.context import Context
from mainstay.rpc import Calls
from mainstay.service import Service
from mainstay.testing.servers import Redis
from mainstay.testing.wait import eventually
from tests.integration.rpc.settings import patient
from tests.waiting import PATIENCE_SECONDS

PROGRAM = """
import time
from pathlib import Path
from mainstay.config import Settings
from mainstay.rpc import run

class Served:
    def call(self, data):
        if data == "hang":
            time.sleep(600)
        return data

raise SystemExit(run(Settings, queue="q", target=Served(), concurrency=2, limit_seconds=1.0))
"""


class Process:
    def __init__(self, folder: Path, redis_url: str, **settings: str) -> None:
        self.log = folder / "log"
        self.heartbeat = folder / "heartbeat"
        environment = dict(
            os.environ,
            APP_ENV="test",
            APP_METRICS_PORT="0",
            REDIS_URL=redis_url,
            MAINSTAY_HEARTBEAT_FILE=str(self.heartbeat),
            **settings,
        )
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", PROGRAM], env=environment, stdout=log, stderr=log
            )

    def lines(self, event: str) -> list[dict[str, Any]]:
        said = [json.loads(line) for line in self.log.read_text().splitlines() if line[:1] == "{"]
        return [line for line in said if line.get("event") == event]

    def get(self, path: str) -> tuple[int, str]:
        [started] = eventually(lambda: self.lines("monitor_started"))
        connection = http.client.HTTPConnection(
            "127.0.0.1", started["port"], timeout=PATIENCE_SECONDS
        )
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


@pytest.fixture
def process(tmp_path: Path, redis_url: str) -> Iterator[Process]:
    process = Process(tmp_path, redis_url, APP_GRACE_SECONDS="0.5")
    yield process
    if process.popen.poll() is None:
        process.popen.kill()
    process.popen.wait()


@pytest.fixture
def calls(redis_url: str) -> Iterator[Calls]:
    held = Service(patient(redis_url=redis_url)).hold(Calls())
    yield held
    held.close()


def test_it_tells_of_itself_and_ends_in_order(process: Process, calls: Calls) -> None:
    eventually(lambda: calls.call("q", 1) == 1)
    with contexts.use(Context.extract({"x-correlation-id": "request-1"})):
        calls.call("q", 2)
    [line] = eventually(
        lambda: [line for line in process.lines("call") if line["correlation_id"] == "request-1"]
    )
    assert (line["name"], line["outcome"]) == ("q", "done")
    assert line["duration_ms"] >= 0
    for path in ("/health", "/ready", "/healthz"):
        assert process.get(path)[0] == 200, process.get(path)
    for number in (
        'mainstay_call_duration_seconds_count{outcome="done",queue="q",side="server"}',
        'mainstay_queue_messages{queue="q",state="ready"} 0.0',
        'mainstay_dead_letters{queue="q"} 0.0',
    ):
        eventually(lambda number=number: number in process.get("/metrics")[1])  # type: ignore[misc] # bound now
    eventually(process.heartbeat.exists)
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(PATIENCE_SECONDS) == 0
    assert process.lines("startup_success")
    assert process.lines("shutting_down")


def test_a_server_whose_hands_hang_says_that_it_is_stuck(process: Process, calls: Calls) -> None:
    eventually(lambda: calls.call("q", 1) == 1)
    for _ in range(2):
        calls.submit("q", "hang")
    eventually(lambda: process.get("/healthz")[0] == 503, every_seconds=0.5)
    status, body = process.get("/healthz")
    assert (status, json.loads(body)["checks"]["calls:q"]["status"]) == (503, "unhealthy")
    # It ends all the same, long before they do, and gives back what it could not finish.
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(PATIENCE_SECONDS) == 0
    assert calls.depth("q")["queue"] is not None


def test_without_its_broker_it_is_unhealthy_and_not_stuck(
    process: Process, calls: Calls, redis_server: Redis
) -> None:
    eventually(lambda: calls.call("q", 1) == 1)
    redis_server.kill()
    eventually(lambda: process.get("/ready")[0] == 503)
    assert process.get("/healthz")[0] == 200
    redis_server.start()
    eventually(lambda: process.get("/ready")[0] == 200)
    eventually(lambda: calls.call("q", 1) == 1)
