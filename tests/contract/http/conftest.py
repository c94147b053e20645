from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import httpx
import pytest

from mainstay import Service, Settings
from mainstay.logs import Logs
from mainstay.resources.memory import MemoryStore
from mainstay.testing.wait import eventually
from tests.contract.http import subject, subject_flask
from tests.contract.http.subject import Subject
from tests.servers import served, served_wsgi
from tests.waiting import PATIENCE_SECONDS

Build = Callable[..., tuple[Any, Subject]]
Serve = Callable[..., AbstractContextManager[int]]

FRAMEWORKS: dict[str, tuple[Build, Serve]] = {
    "fastapi": (subject.build, served),
    "flask": (subject_flask.build, served_wsgi),
}


class Running:
    """A service that is served, and what there is to be seen of it."""

    def __init__(
        self, framework: str, service: Service, port: int, subject: Subject, log: io.BytesIO
    ) -> None:
        self.framework = framework
        self.service = service
        self.port = port
        self.subject = subject
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE_SECONDS
        )
        self._log = log

    def lines(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait for the log's lines of *count* requests, which come after their answers."""

        def written() -> list[dict[str, Any]]:
            lines = [json.loads(line) for line in self._log.getvalue().splitlines()]
            return [line for line in lines if line["logger"] == "mainstay.http"]

        return eventually(lambda: lines if len(lines := written()) >= count else None) or []


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run(framework: str) -> Iterator[Callable[..., Running]]:
    """Serve the subject with settings of the test's own."""
    build, serve = FRAMEWORKS[framework]
    with ExitStack() as stack:

        def start(
            *,
            options: dict[str, Any] | None = None,
            server: dict[str, Any] | None = None,
            **given: Any,
        ) -> Running:
            settings = Settings(**{"env": "test", "service_name": "orders", **given})
            service, log = Service(settings), io.BytesIO()
            service.__dict__["logs"] = Logs(settings, stream=log)
            app, subject = build(service, **{"idempotency_store": MemoryStore(), **(options or {})})
            port = stack.enter_context(serve(app, **(server or {})))
            running = Running(framework, service, port, subject, log)
            stack.callback(running.client.close)
            return running

        yield start


@pytest.fixture
def running(run: Callable[..., Running]) -> Running:
    return run()
