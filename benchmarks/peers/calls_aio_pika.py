"""Calls from asyncio by aio-pika, as its tutorial shows them, with replies straight back.

https://aio-pika.readthedocs.io/en/latest/rabbitmq-tutorial/6-rpc.html
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import aio_pika
import orjson
from aio_pika.abc import AbstractIncomingMessage

from benchmarks.lanes.calls import AT_A_TIME, QUEUE, QUEUE_TYPE, URL, by_tasks, play

REPLIES = "amq.rabbitmq.reply-to"


async def served() -> None:
    connection = await aio_pika.connect_robust(URL)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=AT_A_TIME)
    exchange = channel.default_exchange
    queue = await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": QUEUE_TYPE})

    async def answer(message: AbstractIncomingMessage) -> None:
        async with message.process(requeue=False):
            body = orjson.dumps(orjson.loads(message.body))
            reply = aio_pika.Message(body, correlation_id=message.correlation_id)
            await exchange.publish(reply, routing_key=message.reply_to or "", mandatory=False)

    await queue.consume(answer)
    await asyncio.Future()


class Caller:
    def __init__(self) -> None:
        self.under_way: dict[str, asyncio.Future[bytes]] = {}
        self.exchange: Any = None

    async def open(self) -> None:
        connection = await aio_pika.connect_robust(URL)
        channel = await connection.channel()
        self.exchange = channel.default_exchange
        replies = await channel.get_queue(REPLIES, ensure=False)
        await replies.consume(self.answered, no_ack=True)

    async def answered(self, message: AbstractIncomingMessage) -> None:
        self.under_way.pop(message.correlation_id or "").set_result(message.body)

    async def call(self, data: Any) -> Any:
        id = str(uuid.uuid4())
        answer = self.under_way[id] = asyncio.get_running_loop().create_future()
        message = aio_pika.Message(
            orjson.dumps(data),
            content_type="application/json",
            correlation_id=id,
            reply_to=REPLIES,
        )
        await self.exchange.publish(message, routing_key=QUEUE)
        return orjson.loads(await answer)


def rounds(mode: str) -> Callable[[int], None]:
    runner, caller = asyncio.Runner(), Caller()
    runner.run(caller.open())
    at_a_time = {"task": 1, "tasks": AT_A_TIME}[mode]
    return lambda units: runner.run(by_tasks(caller.call, units, at_a_time))


if __name__ == "__main__":
    play(lambda: asyncio.run(served()), rounds)
