from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mainstay.idempotency import Store
from mainstay.resources.memory import MemoryStore
from mainstay.resources.redis import Redis
from mainstay.resources.redis.idempotency import RedisStore
from mainstay.resources.sqlalchemy import Database, migrate
from mainstay.resources.sqlalchemy.idempotency import DatabaseStore
from tests.databases import KINDS, address, database, embedded_postgres, new_address

__all__ = ["address", "database", "embedded_postgres", "room"]


class Room:
    """One store, and another one over the same keys that forgets its answers at once."""

    def __init__(self, store: Store[Any], forgetful: Store[Any]) -> None:
        self.store = store
        self.forgetful = forgetful


@pytest_asyncio.fixture(params=("memory", "redis", *KINDS))
async def room(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Room]:
    kind = str(request.param)
    if kind == "memory":
        yield Room(MemoryStore(), MemoryStore(ttl_seconds=0.01))
        return
    if kind == "redis":
        redis = Redis(url=request.getfixturevalue("redis_url"))
        yield Room(RedisStore(redis), RedisStore(redis, ttl_seconds=0.01))
        await redis.aclose()
        return
    url = new_address(request, kind, tmp_path)
    migrate.upgrade(url, say=lambda line: None)
    made = Database(url=url)
    yield Room(DatabaseStore(made), DatabaseStore(made, ttl_seconds=0.01))
    await made.aclose()
