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
from mainstay.processes.ports import steady_port
from mainstay.testing.wait import eventually
from tests.waiting import PATIENCE_SECONDS, join

ROOT = Path(__file__).parents[3]
TARGET = "tests.integration.http.flask_app:app"
_GUNICORN = ["-m", "gunicorn", "--config", "python:mainstay.http.gunicorn", "--bind"]
SERVERS = {
    "mainstay run": [
        *("-m", "mainstay.processes.start", "{target}", "--", "mainstay.processes.serve"),
        *("{target}", "--host", "127.0.0.1", "--port", "{port}"),
    ],
    "mainstay run, workers": [
        *("-m", "mainstay.processes.start", "{target}", "--", "mainstay.processes.serve"),
        *("{target}", "--host", "127.0.0.1", "--port", "{port}", "--workers", "2"),
    ],
    "gunicorn-gthread": [*_GUNICORN, "127.0.0.1:{port}", "{target}"],
    "gunicorn-sync": [
        *_GUNICORN, "127.0.0.1:{port}", "--worker-class", "sync", "--threads", "1", "{target}",
    ],
    "waitress": ["-m", "waitress", "--listen", "127.0.0.1:{port}", "--threads", "8", "{target}"],
}  # fmt: skip
# Those that a service can tell to drain first.
DRAINING = ("mainstay run", "mainstay run, workers", "gunicorn-gthread")


class Server:
    def __init__(
        self,
        name: str,
        folder: Path,
        target: str = TARGET,
        *,
        drain_delay_seconds: float = 0.0,
        grace_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.name = name
        self.gate = folder / "gate"  # what lets slow work end
        self.log = folder / "log"
        self.port = steady_port()
        # waitress knows no SIGTERM, and is ended by it in the midst of what it does.
        self.stops_on = signal.SIGINT if name == "waitress" else signal.SIGTERM
        command = [word.format(port=self.port, target=target) for word in SERVERS[name]]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env={
                    **os.environ,
                    "DRAIN_DELAY": str(drain_delay_seconds),
                    "GRACE": str(grace_seconds),
                    "GATE": str(self.gate),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE_SECONDS)

    def ready(self, *, timeout_seconds: float = PATIENCE_SECONDS) -> int:
        """The status of `/ready`, over a separate connection."""
        url = f"http://127.0.0.1:{self.port}/ready"
        return httpx.get(url, trust_env=False, timeout=timeout_seconds).status_code

    def is_stopping(self) -> bool:
        """Is it not ready any more, or are no more connections accepted?"""
        try:
            return self.ready(timeout_seconds=2.0) == 503
        except httpx.TransportError:
            # Refused; or left in the kernel's queue, where gunicorn's threads and waitress leave
            # connections while a request is in progress.
            return True

    def workers(self) -> list[int]:
        return [pid for pid in facts.pids() if facts.parent(pid) == self.process.pid]

    def lines(self) -> list[dict[str, Any]]:
        found = self.log.read_bytes().splitlines()
        return [json.loads(line) for line in found if line.startswith(b"{")]

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(self.stops_on)
        self.process.wait(PATIENCE_SECONDS)


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    made = Server(request.param, tmp_path)
    eventually(lambda: made.ready() == 200)
    yield made
    made.close()


every_server = pytest.mark.parametrize("server", SERVERS, indirect=True)


@every_server
def test_answers_are_the_same_on_every_server(server: Server) -> None:
    client = server.client
    answer = client.post("/echo", json={"a": [1]}, headers={"X-Correlation-ID": "c1"})
    assert (answer.status_code, answer.json()) == (200, {"a": [1]})
    assert answer.headers["x-correlation-id"] == "c1"
    forged = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    assert client.get("/address", headers=forged).json() == {
        "address": "127.0.0.1",
        "scheme": "http",
    }
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
    # What breaks off is not taken for the whole.
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/export")
    assert client.get("/healthz").status_code == 200
    assert "app_requests_total" in client.get("/metrics").text
    line = eventually(lambda: [one for one in server.lines() if one.get("correlation_id") == "c1"])
    assert (line[0]["route"], line[0]["status"]) == ("/echo", 200)


@every_server
def test_a_request_in_hand_is_finished_when_it_is_told_to_stop(server: Server) -> None:
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(server.client.get("/slow")))
    asking.start()
    eventually(lambda: b"begun" in server.log.read_bytes())
    server.process.send_signal(server.stops_on)
    if server.name != "gunicorn-sync":  # which answers nobody meanwhile
        eventually(server.is_stopping)
    server.gate.touch()
    join(asking)
    assert [answer.status_code for answer in answers] == [200]
    assert server.process.wait(PATIENCE_SECONDS) == 0


@pytest.fixture(params=DRAINING)
def patient(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server that drains until it is told to stop once more."""
    made = Server(request.param, tmp_path, drain_delay_seconds=600.0, grace_seconds=1.0)
    eventually(lambda: made.ready() == 200)
    yield made
    made.process.kill()
    made.close()


def test_it_drains_before_it_stops(patient: Server) -> None:
    server = patient
    server.process.terminate()
    eventually(lambda: server.ready() == 503)
    answer = server.client.get("/quick")
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    # A main process tells its workers once.
    for pid in [server.process.pid] if server.name == "mainstay run" else server.workers():
        os.kill(pid, signal.SIGTERM)
    assert server.process.wait(PATIENCE_SECONDS) == 0


@pytest.mark.parametrize("draining", [False, True])
def test_nothing_is_left_of_one_that_is_killed(patient: Server, draining: bool) -> None:
    server = patient
    if draining:
        server.process.terminate()
        eventually(lambda: server.ready() == 503)
    family = [server.process.pid, *server.workers()]
    server.process.kill()
    server.process.wait()
    eventually(lambda: not any(facts.is_alive(pid) for pid in family))
