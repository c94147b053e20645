"""The same service twice: on embedded servers, and on Redis and PostgreSQL."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser

from mainstay.processes.ports import steady_port
from mainstay.testing.servers import PostgreSQL, Redis
from mainstay.testing.wait import eventually
from tests.services.books.browser import chromium
from tests.services.books.platform import API, write_project
from tests.services.platform import Platform, on_embedded, on_servers

Follow = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="session")
def embedded_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("embedded")
    ports = [steady_port() for _ in range(2)]
    write_project(folder, ports)
    with on_embedded(folder, ports) as platform:
        yield platform


@pytest.fixture(scope="session")
def real_platform(
    tmp_path_factory: pytest.TempPathFactory, redis_server: Redis, postgres: PostgreSQL
) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("real")
    ports = [steady_port() for _ in range(2)]
    write_project(folder, ports)
    with on_servers(
        folder,
        ports,
        "books",
        DATABASE_URL=postgres.create_database("books"),
        REDIS_URL=redis_server.url,
        CELERY_BROKER_URL=redis_server.url,
        CELERY_RESULT_BACKEND=redis_server.url,
        FLASK_SECRET_KEY=secrets.token_hex(32),
    ) as platform:
        yield platform


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # No longer than for its module: while it is open, other tests cannot run an event loop.
    with chromium() as browser:
        yield browser


_IDS = itertools.count(1_000_000)


@pytest.fixture
def new_id() -> Callable[[], int]:
    """Makes ids that no other test has."""
    return lambda: next(_IDS)


@pytest.fixture
def follow(client: httpx.Client) -> Follow:
    """Waits for a task of the importer, and returns its last status."""

    def to_the_end(task_id: str) -> dict[str, Any]:
        status: dict[str, Any] = {}

        def is_over() -> bool:
            status.update(client.get(f"{API}/importer/status/{task_id}").json())
            return status["state"] in ("SUCCESS", "FAILURE", "REVOKED")

        eventually(is_over)
        return status

    return to_the_end
