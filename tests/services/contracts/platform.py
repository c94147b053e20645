"""The contracts service as its users have it, and somebody who is told of its contracts."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from mainstay.testing.wait import eventually
from tests.services import commands
from tests.services.platform import SERVICES, write_service
from tests.waiting import join

__all__ = ["API", "Receiver", "do", "ended", "running", "steps", "write_project"]

API = "/api/v1/contracts"
SERVICE = SERVICES / "contracts"

running = partial(commands.running, SERVICE)
"""Type a command in the service's folder, and stop what it starts."""


def write_project(folder: Path, ports: Sequence[int]) -> None:
    """Copy the service into *folder*, with the project's manifest on ports that are free."""
    api, worker = ports
    write_service(
        folder,
        "contracts",
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
""",
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
        join(self._thread)
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
    """Type a command in the service's folder, and return all that it says."""
    ended = commands.do(SERVICE, env, *command, exit_code=exit_code)
    return ended.stdout + ended.stderr
