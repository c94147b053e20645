"""A server that is told to stop goes on answering until its traffic has gone elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from mainstay.processes.ports import free_port
from mainstay.testing.wait import eventually

ROOT = Path(__file__).parents[3]


class Server:
    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.process = process
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20)

    def ready(self) -> int:
        """The status of `/ready`, over a connection of its own."""
        return httpx.get(f"http://127.0.0.1:{self.port}/ready", trust_env=False).status_code

    def is_busy(self) -> bool:
        """Has a slow request been begun?"""
        url = f"http://127.0.0.1:{self.port}/begun"
        return bool(httpx.get(url, trust_env=False).json())

    def is_up(self) -> bool:
        return self.ready() == 200


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def run(*options: str, delay_seconds: float, grace_seconds: float = 25.0) -> Server:
        port = free_port()
        app = "tests.integration.http.draining_app:app"
        command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), *options]
        environment = {
            **os.environ,
            "DRAIN_DELAY": str(delay_seconds),
            "GRACE": str(grace_seconds),
        }
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        server = Server(port, process)
        started.append(server)
        eventually(server.is_up, timeout_seconds=30)
        return server

    yield run
    for server in started:
        server.client.close()
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
def test_sigterm_drains_before_it_stops(
    start: Callable[..., Server], options: tuple[str, ...]
) -> None:
    server = start(*options, delay_seconds=1.5)
    assert server.client.get("/slow?seconds=0").headers.get("connection") != "close"
    server.process.terminate()
    eventually(lambda: server.ready() == 503)
    # Not ready, and still there: for whoever has not noticed yet.
    answer = server.client.get("/slow?seconds=0")
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert server.process.wait(20) == 0


def test_requests_in_hand_are_finished(start: Callable[..., Server]) -> None:
    server = start(delay_seconds=0.0)
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(server.client.get("/slow?seconds=1.5")))
    asking.start()
    eventually(server.is_busy)
    server.process.terminate()
    asking.join(20)
    assert [answer.status_code for answer in answers] == [200]
    assert server.process.wait(20) == 0


def test_what_outlasts_the_grace_is_told_to_ask_again(start: Callable[..., Server]) -> None:
    server = start(delay_seconds=0.5, grace_seconds=1.0)
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(server.client.get("/slow?seconds=20")))
    asking.start()
    eventually(server.is_busy)
    server.process.terminate()
    asking.join(20)
    assert [answer.status_code for answer in answers] == [503]
    assert answers[0].headers["retry-after"] == "1"
    assert server.process.wait(20) == 0


def test_a_terminal_that_goes_is_a_sigterm(start: Callable[..., Server]) -> None:
    server = start(delay_seconds=0.0)
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(server.client.get("/slow?seconds=1.5")))
    asking.start()
    eventually(server.is_busy)
    server.process.send_signal(signal.SIGHUP)
    asking.join(20)
    assert [answer.status_code for answer in answers] == [200]
    assert server.process.wait(20) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_skips_the_wait(
    start: Callable[..., Server], second: signal.Signals
) -> None:
    server = start(delay_seconds=600.0)
    server.process.terminate()
    eventually(lambda: server.ready() == 503)
    server.process.send_signal(second)
    server.process.wait(20)
