"""A server that receives SIGTERM goes on answering until its traffic has gone elsewhere."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from mainstay.processes.ports import steady_port
from mainstay.testing.wait import eventually
from tests.waiting import PATIENCE_SECONDS, join

ROOT = Path(__file__).parents[3]
# The kernel may give one worker of two nearly all new connections.
UNFAIR_SECONDS = 300.0


class Server:
    def __init__(self, port: int, process: subprocess.Popen[bytes], gate: Path) -> None:
        self.port = port
        self.process = process
        self.gate = gate  # what lets a slow request end
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE_SECONDS
        )

    def ready(self) -> int:
        """The status of `/ready`, over a new connection."""
        return httpx.get(f"http://127.0.0.1:{self.port}/ready", trust_env=False).status_code

    def pid(self) -> int:
        """The pid of a process that answers."""
        return int(httpx.get(f"http://127.0.0.1:{self.port}/quick", trust_env=False).json())

    def draining(self) -> int | None:
        """The pid of a process that answers and asks for another connection."""
        answer = httpx.get(f"http://127.0.0.1:{self.port}/quick", trust_env=False)
        is_draining = answer.status_code == 200 and answer.headers.get("connection") == "close"
        return int(answer.json()) if is_draining else None

    def is_busy(self) -> bool:
        """Has a slow request started?"""
        url = f"http://127.0.0.1:{self.port}/begun"
        return bool(httpx.get(url, trust_env=False).json())

    def is_closed(self) -> bool:
        """Does it take no more connections?"""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) != 0

    def is_up(self) -> bool:
        return self.ready() == 200


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def run(*options: str, delay_seconds: float, grace_seconds: float = PATIENCE_SECONDS) -> Server:
        port, gate = steady_port(), tmp_path / "gate"
        app = "tests.integration.http.draining_app:app"
        command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), *options]
        environment = {
            **os.environ,
            "DRAIN_DELAY": str(delay_seconds),
            "GRACE": str(grace_seconds),
            "GATE": str(gate),
        }
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        server = Server(port, process, gate)
        started.append(server)
        eventually(server.is_up)
        return server

    yield run
    for server in started:
        server.client.close()
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()


@pytest.mark.parametrize(("options", "workers"), [((), 1), (("--workers", "2"), 2)])
def test_sigterm_drains_before_it_stops(
    start: Callable[..., Server], options: tuple[str, ...], workers: int
) -> None:
    server = start(*options, delay_seconds=600.0)
    assert server.client.get("/quick").headers.get("connection") != "close"
    # A worker that is told to stop while it starts never answers.
    serving: set[int] = set()

    def are_serving() -> bool:
        serving.add(server.pid())
        return len(serving) == workers

    eventually(are_serving, timeout_seconds=UNFAIR_SECONDS)
    server.process.terminate()
    eventually(lambda: server.ready() == 503)
    # Not ready, and still there: for whoever has not noticed yet. The worker of this connection
    # may be signalled after the one that was not ready.
    eventually(lambda: server.client.get("/quick").headers.get("connection") == "close")
    stopped: set[int] = set()

    def are_stopped() -> bool:
        # A second signal to a worker that has not handled the first yet would be lost.
        pid = server.draining()
        if pid is not None and pid not in stopped:
            stopped.add(pid)
            os.kill(pid, signal.SIGTERM)
        return len(stopped) == workers

    # Uvicorn's main process tells its workers once.
    eventually(are_stopped, timeout_seconds=UNFAIR_SECONDS)
    assert server.process.wait(PATIENCE_SECONDS) == 0


def test_requests_in_hand_are_finished(start: Callable[..., Server]) -> None:
    server = start(delay_seconds=0.0)
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(server.client.get("/slow")))
    asking.start()
    eventually(server.is_busy)
    server.process.terminate()
    eventually(server.is_closed)
    server.gate.touch()
    join(asking)
    assert [answer.status_code for answer in answers] == [200]
    assert server.process.wait(PATIENCE_SECONDS) == 0


def test_what_outlasts_the_grace_is_told_to_ask_again(start: Callable[..., Server]) -> None:
    server = start(delay_seconds=0.5, grace_seconds=1.0)
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(server.client.get("/slow")))
    asking.start()
    eventually(server.is_busy)
    server.process.terminate()
    join(asking)
    assert [answer.status_code for answer in answers] == [503]
    assert answers[0].headers["retry-after"] == "1"
    assert server.process.wait(PATIENCE_SECONDS) == 0


def test_a_terminal_that_goes_is_a_sigterm(start: Callable[..., Server]) -> None:
    server = start(delay_seconds=0.0)
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(server.client.get("/slow")))
    asking.start()
    eventually(server.is_busy)
    server.process.send_signal(signal.SIGHUP)
    eventually(server.is_closed)
    server.gate.touch()
    join(asking)
    assert [answer.status_code for answer in answers] == [200]
    assert server.process.wait(PATIENCE_SECONDS) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_skips_the_wait(
    start: Callable[..., Server], second: signal.Signals
) -> None:
    server = start(delay_seconds=600.0)
    server.process.terminate()
    eventually(lambda: server.ready() == 503)
    server.process.send_signal(second)
    server.process.wait(PATIENCE_SECONDS)
