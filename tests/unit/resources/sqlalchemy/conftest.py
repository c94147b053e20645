from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from mainstay.resources.sqlalchemy import Database, migrate


@pytest_asyncio.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """An SQLite database with Mainstay's tables."""
    url = f"sqlite:///{tmp_path / 'test.db'}"
    migrate.upgrade(url, say=lambda line: None)
    made = Database(url=url)
    yield made
    await made.aclose()
