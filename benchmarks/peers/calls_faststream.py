"""Calls as FastStream's documentation shows them, on RabbitMQ and on Redis.

https://faststream.ag2.ai/latest/rabbit/rpc/ and https://faststream.ag2.ai/latest/redis/rpc/
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import orjson
from faststream import FastStream

from benchmarks.lanes.calls import AT_A_TIME, QUEUE, QUEUE_TYPE, URL, by_tasks, play

IS_RABBITMQ = URL.startswith("amqp")


def made() -> Any:
    if IS_RABBITMQ:
        from faststream.rabbit import Channel, RabbitBroker

        return RabbitBroker(URL, default_channel=Channel(prefetch_count=AT_A_TIME))
    from faststream.redis import RedisBroker

    # redis-py 8 opens 100 connections at most, and FastStream needs two for a call under way.
    return RedisBroker(URL, max_connections=4 * AT_A_TIME)


def where() -> dict[str, Any]:
    if IS_RABBITMQ:
        from faststream.rabbit import QueueType, RabbitQueue

        kind = QueueType.QUORUM if QUEUE_TYPE == "quorum" else QueueType.CLASSIC
        return {"queue": RabbitQueue(QUEUE, queue_type=kind, durable=True)}
    return {"list": QUEUE}


async def served() -> None:
    broker = made()

    @broker.subscriber(**where())  # type: ignore[untyped-decorator] # its broker is one of two
    async def echo(data: dict[str, Any]) -> dict[str, Any]:
        return data

    await FastStream(broker).run(log_level=logging.INFO)


class Caller:
    def __init__(self) -> None:
        self.broker = made()

    async def call(self, data: Any) -> Any:
        target = {"queue": QUEUE} if IS_RABBITMQ else {"list": QUEUE}
        answer = await self.broker.request(data, **target, timeout=10.0)
        return orjson.loads(answer.body)


def rounds(mode: str) -> Callable[[int], None]:
    runner, caller = asyncio.Runner(), Caller()
    runner.run(caller.broker.start())
    at_a_time = {"task": 1, "tasks": AT_A_TIME}[mode]
    return lambda units: runner.run(by_tasks(caller.call, units, at_a_time))


if __name__ == "__main__":
    play(lambda: asyncio.run(served()), rounds)
