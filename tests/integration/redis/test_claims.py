"""A claim is its owner's and an answer is kept, also when the network loses the word of it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Self
from urllib.parse import urlsplit

from mainstay.idempotency import Answer, Claim, Request
from mainstay.resources.redis import Redis
from mainstay.resources.redis.idempotency import RedisStore


class _Losing:
    """Passes on to a server, and cuts the connection in place of the next answer when told to."""

    def __init__(self, url: str) -> None:
        self._there = urlsplit(url)
        self._loses = False
        self._connections: list[asyncio.Task[None]] = []
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return f"redis://:{self._there.password}@127.0.0.1:{port}{self._there.path}"

    def lose_the_next_answer(self) -> None:
        self._loses = True

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await asyncio.gather(*self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.append(asyncio.ensure_future(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, questions = await asyncio.open_connection(self._there.hostname, self._there.port)
        asking = asyncio.create_task(self._ask(reader, questions))
        while data := await answers.read(65_536):
            if self._loses:
                self._loses = False
                break
            writer.write(data)
        writer.close()
        await asking

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()


def asked(key: str) -> Request:
    return Request.of(
        key, operation="POST /orders", principal="ann", body=b"{}", lease_seconds=30.0
    )


async def test_a_claim_whose_answer_is_lost_is_still_its_owners(redis_url: str) -> None:
    async with _Losing(redis_url) as network, aclosing(Redis(url=network.url)) as redis:
        store = RedisStore(redis)
        assert isinstance(await store.aclaim(asked("before")), Claim)

        network.lose_the_next_answer()
        found = await store.aclaim(asked("lost"))

        assert isinstance(found, Claim)
        assert found.epoch == 1


async def test_an_answer_is_kept_though_the_word_of_it_is_lost(redis_url: str) -> None:
    async with _Losing(redis_url) as network, aclosing(Redis(url=network.url)) as redis:
        store = RedisStore(redis)
        before, claim = await store.aclaim(asked("before")), await store.aclaim(asked("lost"))
        assert isinstance(before, Claim)
        assert isinstance(claim, Claim)
        refusal = Answer(409, (("content-type", "text/plain"),), b"that name is taken")
        await store.afinish(None, before, refusal)

        network.lose_the_next_answer()
        await store.afinish(None, claim, refusal)

        assert await store.aclaim(asked("lost")) == refusal
