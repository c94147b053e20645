"""Calls as Kombu's documentation shows them, with a pool of producers and one queue of replies.

https://docs.celeryq.dev/projects/kombu/en/stable/examples/rpc-tut6.html
https://docs.celeryq.dev/projects/kombu/en/stable/userguide/pools.html
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from kombu import Connection, Consumer, Exchange, Queue
from kombu.mixins import ConsumerProducerMixin
from kombu.pools import producers

from benchmarks.lanes.calls import AT_A_TIME, DATA, QUEUE, QUEUE_TYPE, URL, check, play

ARGUMENTS = {"x-queue-type": QUEUE_TYPE} if URL.startswith("amqp") else None


def queue() -> Queue:
    return Queue(QUEUE, queue_arguments=ARGUMENTS)


class Server(ConsumerProducerMixin):
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def get_consumers(self, consumer: Any, _channel: Any) -> list[Any]:
        return [
            consumer(
                queues=[queue()],
                on_message=self.answer,
                accept={"application/json"},
                prefetch_count=AT_A_TIME,
            )
        ]

    def answer(self, message: Any) -> None:
        self.producer.publish(
            message.payload,
            exchange="",
            routing_key=message.properties["reply_to"],
            correlation_id=message.properties["correlation_id"],
            serializer="json",
            retry=True,
        )
        message.ack()


def serve() -> None:
    with Connection(URL) as connection:
        Server(connection).run()  # type: ignore[no-untyped-call] # it has no types


class Caller:
    def __init__(self) -> None:
        self.connection = Connection(URL)
        self.replies = Queue(str(uuid.uuid4()), Exchange(""), exclusive=True, auto_delete=True)
        self.answers: dict[str, Any] = {}
        self.consumer = Consumer(
            self.connection,
            on_message=self.answered,
            queues=[self.replies],
            no_ack=True,
            accept={"application/json"},
        )
        self.consumer.consume()

    def answered(self, message: Any) -> None:
        self.answers[message.properties["correlation_id"]] = message.payload

    def send(self) -> str:
        id = str(uuid.uuid4())
        with producers[self.connection].acquire(block=True) as producer:
            producer.publish(
                DATA,
                exchange="",
                routing_key=QUEUE,
                reply_to=self.replies.name,
                correlation_id=id,
                serializer="json",
            )
        return id

    def one(self, units: int) -> None:
        for _ in range(units):
            id = self.send()
            while id not in self.answers:
                self.connection.drain_events()
            check(self.answers.pop(id))

    def futures(self, units: int) -> None:
        under_way = {self.send() for _ in range(min(units, AT_A_TIME))}
        left = units - len(under_way)
        while under_way:
            self.connection.drain_events()
            for id in list(self.answers):
                check(self.answers.pop(id))
                under_way.remove(id)
                if left:
                    under_way.add(self.send())
                    left -= 1


def rounds(mode: str) -> Callable[[int], None]:
    caller = Caller()
    return {"one": caller.one, "futures": caller.futures}[mode]


if __name__ == "__main__":
    play(serve, rounds)
