"""What is asked of Redis at once goes out together, and each hears its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis

from mainstay.resources.redis import Redis
from mainstay.resources.redis.batches import Script
from mainstay.testing import servers

_ECHO = Script("return {KEYS[1], ARGV[1]}")


@pytest.fixture
async def held(redis_url: str) -> AsyncIterator[Redis]:
    held = Redis(url=redis_url)
    yield held
    await held.aclose()


async def _reads(held: Redis) -> int:
    return int((await held.aclient.info("stats"))["total_reads_processed"])


async def test_each_hears_its_own_answer(held: Redis) -> None:
    async def one(number: int) -> bytes:
        await held.batches.execute("SET", f"key-{number}", number)
        answer: bytes = await held.batches.execute("GET", f"key-{number}")
        return answer

    answers = await asyncio.gather(*(one(number) for number in range(250)))

    assert [int(answer) for answer in answers] == list(range(250))


async def test_what_is_asked_at_once_goes_out_together(held: Redis) -> None:
    await held.batches.execute("PING")
    before = await _reads(held)

    await asyncio.gather(*(held.batches.execute("PING") for _ in range(80)))

    assert await _reads(held) - before < 40  # others ask the server meanwhile, too


async def test_a_command_that_is_refused_fails_alone(held: Redis) -> None:
    await held.aclient.set("text", "not a number")

    commands = [("SET", "one", 1), ("INCR", "text"), ("GET", "one")]
    asked = (held.batches.execute(*command) for command in commands)
    answers = await asyncio.gather(*asked, return_exceptions=True)

    assert isinstance(answers[1], redis.ResponseError)
    assert answers[2] == b"1"


async def test_who_does_not_wait_any_more_disturbs_nobody(held: Redis) -> None:
    gone = asyncio.create_task(held.batches.execute("SET", "gone", 1))
    other = asyncio.create_task(held.batches.execute("SET", "other", 2))
    await asyncio.sleep(0)

    gone.cancel()

    await other
    assert await held.batches.execute("GET", "other") == b"2"


async def test_a_script_that_the_server_has_forgotten_is_sent_again(held: Redis) -> None:
    assert await _ECHO.arun(held.batches, "key", "a") == [b"key", b"a"]
    await held.aclient.script_flush()

    both = await asyncio.gather(*(_ECHO.arun(held.batches, "key", each) for each in "bc"))

    assert both == [[b"key", b"b"], [b"key", b"c"]]
    await held.aclient.script_flush()
    assert _ECHO.run(held.client, "key", "d") == [b"key", b"d"]


async def test_an_outage_is_told_to_all_who_wait_and_ends_with_itself() -> None:
    with servers.Redis() as server:
        held = Redis(url=server.url)
        await held.batches.execute("PING")
        server.kill()

        answers = await asyncio.gather(
            *(held.batches.execute("PING") for _ in range(150)), return_exceptions=True
        )
        assert all(isinstance(answer, redis.ConnectionError) for answer in answers)

        server.start()
        assert await held.batches.execute("PING") is not None
        await held.aclose()
