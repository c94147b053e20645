"""Flask behind every server that it is said to run on: the same answers, and a clean end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mainstay.processes import facts
from mainstay.processes.ports import free_port
from mainstay.testing.wait import eventually

ROOT = Path(__file__).parents[3]
TARGET = "tests.integration.http.flask_app:app"
MADE_SLOWLY = "tests.integration.http.flask_app:made_slowly"
_GUNICORN = ["-m", "gunicorn", "--config", "python:mainstay.http.gunicorn", "--bind"]
SERVERS = {
    "granian": ["-m", "mainstay.http.granian", "{target}", "--port", "{port}"],
    "gunicorn-gthread": [*_GUNICORN, "127.0.0.1:{port}", "{target}"],
    "gunicorn-sync": [
        *_GUNICORN, "127.0.0.1:{port}", "--worker-class", "sync", "--threads", "1", "{target}",
    ],
    "waitress": ["-m", "waitress", "--listen", "127.0.0.1:{port}", "--threads", "8", "{target}"],
}  # fmt: skip
# Those that a service can tell to drain first.
DRAINING = ("granian", "gunicorn-gthread")


class Server:
    def __init__(self, name: str, folder: Path, target: str = TARGET) -> None:
        self.log = folder / "log"
        self.port = free_port()
        # waitress knows no SIGTERM, and is ended by it in the midst of what it does.
        self.stops_on = signal.SIGINT if name == "waitress" else signal.SIGTERM
        command = [word.format(port=self.port, target=target) for word in SERVERS[name]]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env={**os.environ, "DRAIN_DELAY": "1.0"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=url, trust_env=False, timeout=30)

    def ready(self) -> int:
        """The status of `/ready`, over a connection of its own."""
        return httpx.get(f"http://127.0.0.1:{self.port}/ready", trust_env=False).status_code

    def lines(self) -> list[dict[str, Any]]:
        found = self.log.read_bytes().splitlines()
        return [json.loads(line) for line in found if line.startswith(b"{")]

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(self.stops_on)
        self.process.wait(60)


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    made = Server(request.param, tmp_path)
    eventually(lambda: made.ready() == 200, timeout_seconds=60)
    yield made
    made.close()


every_server = pytest.mark.parametrize("server", SERVERS, indirect=True)


@every_server
def test_answers_are_the_same_on_every_server(server: Server) -> None:
    client = server.client
    answer = client.post("/echo", json={"a": [1]}, headers={"X-Correlation-ID": "c1"})
    assert (answer.status_code, answer.json()) == (200, {"a": [1]})
    assert answer.headers["x-correlation-id"] == "c1"
    kinds = {}
    for name, refused in {
        "no JSON": client.post("/echo", content=b"{", headers={"Content-Type": "application/json"}),
        "too long": client.post("/echo", json="x" * 2000),
        "too long, unannounced": client.post(
            "/echo", content=iter([b'"', b"x" * 2000, b'"']),
            headers={"Content-Type": "application/json"},
        ),
        "no such route": client.get("/nothing"),
        "no such method": client.delete("/echo"),
        "broken": client.get("/broken"),
    }.items():  # fmt: skip
        assert refused.headers["content-type"] == "application/problem+json", name
        assert refused.json()["correlation_id"], name
        kinds[name] = refused.status_code
    assert kinds == {
        "no JSON": 400,
        "too long": 413,
        "too long, unannounced": 413,
        "no such route": 404,
        "no such method": 405,
        "broken": 500,
    }
    assert client.get("/healthz").status_code == 200
    assert "app_requests_total" in client.get("/metrics").text
    line = eventually(lambda: [one for one in server.lines() if one.get("correlation_id") == "c1"])
    assert (line[0]["route"], line[0]["status"]) == ("/echo", 200)


@every_server
def test_a_request_in_hand_is_finished_when_it_is_told_to_stop(server: Server) -> None:
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(server.client.get("/slow/1.5")))
    asking.start()
    eventually(lambda: b"begun" in server.log.read_bytes())
    server.process.send_signal(server.stops_on)
    asking.join(60)
    assert [answer.status_code for answer in answers] == [200]
    assert server.process.wait(60) == 0


@pytest.mark.parametrize("server", DRAINING, indirect=True)
def test_it_drains_before_it_stops(server: Server) -> None:
    server.process.terminate()
    eventually(lambda: server.ready() == 503)
    answer = server.client.get("/slow/0.0")
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert server.process.wait(60) == 0


@pytest.mark.parametrize("server", DRAINING, indirect=True)
@pytest.mark.parametrize("draining", [False, True])
def test_nothing_is_left_of_one_that_is_killed(server: Server, draining: bool) -> None:
    if draining:
        server.process.terminate()
        eventually(lambda: server.ready() == 503)
    server.process.kill()

    def is_gone() -> bool:
        try:
            server.ready()
        except httpx.TransportError:
            return True
        return False

    eventually(is_gone, timeout_seconds=60)


def test_a_worker_whose_server_is_killed_while_it_loads_ends_too(tmp_path: Path) -> None:
    server = Server("granian", tmp_path, MADE_SLOWLY)
    eventually(lambda: b"loading" in server.log.read_bytes(), timeout_seconds=60)
    server.process.kill()
    server.close()
    loading = next(line for line in server.log.read_text().splitlines() if "loading" in line)
    worker = int(loading.split()[-1])
    eventually(lambda: not facts.is_alive(worker) or facts.is_zombie(worker), timeout_seconds=60)
