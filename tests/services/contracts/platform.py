"""The contracts service as its users have it, and somebody who is told of its contracts."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from mainstay.testing.wait import eventually
from tests.services.data.platform import SERVICES, Platform, environment

__all__ = [
    "API",
    "PROGRAMS",
    "SERVICE",
    "Platform",
    "Receiver",
    "do",
    "ended",
    "environment",
    "running",
    "steps",
    "write_project",
]

API = "/api/v1/contracts"
SERVICE = SERVICES / "contracts"
PROGRAMS = Path(sys.executable).parent


def write_project(folder: Path, ports: Sequence[int]) -> None:
    """Copy the service into *folder*, with the project's manifest on ports that are free."""
    ignored = shutil.ignore_patterns("__pycache__", ".env")
    shutil.copytree(SERVICE, folder / "services" / "contracts", ignore=ignored)
    api, worker = ports
    folder.joinpath("mainstay.toml").write_text(
        f"""
[service.contracts]
path = "services/contracts"
settings = "contracts.config.celery_settings:Settings"
database = true
env = {{ CELERY_RESULT_BACKEND = "" }}
[service.contracts.process.api]
kind = "http"
target = "contracts.app:create_app"
port = {api}
[service.contracts.process.worker]
kind = "tasks"
target = "contracts.celery_app:celery_app"
metrics_port = {worker}
"""
    )


class Receiver:
    """Is told of contracts; what it answers goes by the customer: 204, unless `answers` has more.

    Attributes:
        answers: The next answers, by customer; the last one stands for all that follow.
        told: The keys of what it was told with success, by customer.
    """

    def __init__(self) -> None:
        self.answers: dict[str, list[int]] = {}
        self.told: defaultdict[str, list[str]] = defaultdict(list)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = outer.answer(body["customer"], self.headers["Idempotency-Key"])
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/contracts"

    def answer(self, customer: str, key: str) -> int:
        wanted = self.answers.get(customer, [204])
        status = wanted.pop(0) if len(wanted) > 1 else wanted[0]
        if status < 300:
            self.told[customer].append(key)
        return status

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def ended(client: httpx.Client, id: str, *, timeout_seconds: float = 60.0) -> dict[str, Any]:
    """Wait until nothing more is done for a contract, and return it."""

    def is_over() -> bool:
        told = client.get(f"{API}/{id}/workflow").json()
        return bool(told["status"] != "running")

    eventually(is_over, timeout_seconds=timeout_seconds, every_seconds=0.1)
    found: dict[str, Any] = client.get(f"{API}/{id}").json()
    return found


def steps(client: httpx.Client, id: str) -> list[tuple[str, str, int]]:
    """Return name, status and attempts of each step of a contract."""
    told = client.get(f"{API}/{id}/workflow").json()
    return [(each["name"], each["status"], each["attempts"]) for each in told["steps"]]


def do(env: Mapping[str, str], *command: str, exit_code: int = 0) -> str:
    """Type a command in the service's folder, and return what it says."""
    found = subprocess.run(
        [PROGRAMS / command[0], *command[1:]],
        cwd=SERVICE,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == exit_code, found.stdout + found.stderr
    return found.stdout + found.stderr


@contextmanager
def running(env: Mapping[str, str], log: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Type a command in the service's folder, and stop what it starts, if it is still there."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [PROGRAMS / command[0], *command[1:]],
            cwd=SERVICE,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()
            process.wait()
