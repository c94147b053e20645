"""One rule for all processes, on every server that counts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from mainstay.errors import LimitExceeded
from mainstay.limits import RateLimits, Rule
from mainstay.resources.redis import Redis
from mainstay.resources.redis.limits import RedisCounts


@pytest_asyncio.fixture(params=["redis_url", "embedded_valkey_url"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., RateLimits]]:
    url: str = request.getfixturevalue(request.param)
    opened: list[Redis] = []

    def process(prefix: str = "orders") -> RateLimits:
        opened.append(Redis(url=url))
        return RateLimits(RedisCounts(opened[-1], prefix=prefix))

    yield process
    for redis in opened:
        await redis.aclose()


async def test_processes_count_together(connect: Callable[..., RateLimits]) -> None:
    rule = Rule(4, 3600)
    one, two = connect(), connect()
    for limits in (one, two):
        limits.hit(rule, "a")
        await limits.ahit(rule, "a")
    for limits in (one, two):
        with pytest.raises(LimitExceeded) as caught:
            limits.hit(rule, "a")
        with pytest.raises(LimitExceeded):
            await limits.ahit(rule, "a")
    assert caught.value.retry_after_seconds is not None
    assert 1 <= caught.value.retry_after_seconds <= 3600
    await one.ahit(rule, "b")


async def test_services_count_apart(connect: Callable[..., RateLimits]) -> None:
    rule = Rule(1, 3600)
    await connect("orders").ahit(rule, "a")
    await connect("ledger").ahit(rule, "a")
