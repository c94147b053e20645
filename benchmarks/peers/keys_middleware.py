"""asgi-idempotency-header, as its README has it."""

from __future__ import annotations

import os

from idempotency_header_middleware import IdempotencyHeaderMiddleware
from idempotency_header_middleware.backends import RedisBackend
from redis.asyncio import Redis

from benchmarks.lanes.keys_bare import app

__all__ = ["app"]

app.add_middleware(
    IdempotencyHeaderMiddleware, backend=RedisBackend(Redis.from_url(os.environ["REDIS_URL"]))
)
