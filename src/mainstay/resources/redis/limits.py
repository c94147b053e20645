"""Counts of requests that all processes share: a sliding window made of two counters.

One round trip for a request that is admitted, on the server's clock.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from mainstay.extras import require

require("limits", extra="fastapi")

import limits.aio.storage  # noqa: E402 - the check stands first
import limits.aio.strategies  # noqa: E402 - the check stands first
import limits.storage  # noqa: E402 - the check stands first
import limits.strategies  # noqa: E402 - the check stands first
from limits import RateLimitItem, RateLimitItemPerSecond  # noqa: E402 - the check stands first

from mainstay.resources.redis.client import Redis  # noqa: E402 - the check stands first

if TYPE_CHECKING:
    from mainstay.limits import Rule

__all__ = ["RedisCounts"]

# A limit that is waited for is worse than none.
_ANSWER_SECONDS = 0.25


class RedisCounts:
    """Counts requests in Redis.

    Args:
        redis: Where; its connections are used.
        prefix: What the counts' keys begin with, so that services may share a server.
    """

    def __init__(self, redis: Redis, *, prefix: str = "limits") -> None:
        self._redis = redis
        self._prefix = prefix
        self._items: dict[Rule, RateLimitItem] = {}
        self._limiter: limits.strategies.RateLimiter | None = None
        self._limiters: WeakKeyDictionary[
            asyncio.AbstractEventLoop, limits.aio.strategies.RateLimiter
        ] = WeakKeyDictionary()

    def hit(self, rule: Rule, key: str) -> float | None:
        if self._limiter is None:
            storage = limits.storage.RedisStorage(
                _ANY, connection_pool=self._redis.client.connection_pool
            )
            self._limiter = limits.strategies.SlidingWindowCounterRateLimiter(storage)
        item = self._item(rule)
        if self._limiter.hit(item, key):
            return None
        return self._limiter.get_window_stats(item, key).reset_time - time.time()

    async def ahit(self, rule: Rule, key: str) -> float | None:
        loop = asyncio.get_running_loop()
        limiter = self._limiters.get(loop)
        if limiter is None:
            storage = limits.aio.storage.RedisStorage(
                f"async+{_ANY}",
                implementation="redispy",
                connection_pool=self._redis.aclient.connection_pool,  # type: ignore[arg-type]  # typed for what a URL can say
            )
            limiter = limits.aio.strategies.SlidingWindowCounterRateLimiter(storage)
            self._limiters[loop] = limiter
        item = self._item(rule)
        async with asyncio.timeout(_ANSWER_SECONDS):
            if await limiter.hit(item, key):
                return None
            return (await limiter.get_window_stats(item, key)).reset_time - time.time()

    def _item(self, rule: Rule) -> RateLimitItem:
        item = self._items.get(rule)
        if item is None:
            item = RateLimitItemPerSecond(
                rule.requests, rule.window_seconds, namespace=self._prefix
            )
            self._items[rule] = item
        return item


# The library wants an address; the connections are those of the resource.
_ANY = "redis://"
