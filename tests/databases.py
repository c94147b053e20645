"""The kinds of database that suites run against, as fixtures: import them in a conftest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from secrets import token_hex

import pytest
import pytest_asyncio

from mainstay.embedded import Postgres
from mainstay.resources.sqlalchemy import Database, migrate
from mainstay.testing.servers import PostgreSQL
from tests.waiting import PATIENCE_SECONDS

__all__ = ["KINDS", "address", "database", "embedded_postgres", "new_address"]

KINDS = ("sqlite", "postgresql")
"""The embedded server is PostgreSQL too: platforms run on it, and what a test names it for."""


@pytest.fixture(scope="session")
def embedded_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("embedded") / "postgres")
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=KINDS)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind."""
    return new_address(request, str(request.param), tmp_path)


@pytest_asyncio.fixture
async def database(address: str) -> AsyncIterator[Database]:
    """A database of each kind with Mainstay's tables."""
    migrate.upgrade(address, say=lambda line: None)
    made = Database(
        url=address,
        statement_timeout_seconds=PATIENCE_SECONDS,
        lock_timeout_seconds=PATIENCE_SECONDS,
    )
    yield made
    await made.aclose()


def new_address(request: pytest.FixtureRequest, kind: str, folder: Path) -> str:
    """Return the URL of an empty database; its server is started when it is first asked for."""
    if kind == "sqlite":
        return f"sqlite:///{folder / 'test.db'}"
    name = f"test_{token_hex(4)}"
    if kind == "embedded":
        embedded: Postgres = request.getfixturevalue("embedded_postgres")
        embedded.create_database(name)
        return embedded.url(name)
    server: PostgreSQL = request.getfixturevalue("postgres")
    return server.start().create_database(name)
