"""The bound on RabbitMQ: the `amqp` library alone, one thread, nothing that can go wrong.

No deadline, no reconnect, no confirm, no log line, no metric; replies come straight back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp
import orjson

from benchmarks.lanes.calls import AT_A_TIME, DATA, QUEUE, QUEUE_TYPE, URL, check, play

REPLIES = "amq.rabbitmq.reply-to"


def connected() -> Any:
    parts = urlsplit(URL)
    connection = amqp.Connection(
        f"{parts.hostname}:{parts.port}",
        userid=parts.username,
        password=parts.password,
        virtual_host=unquote(parts.path[1:]) or "/",
    )
    connection.connect()
    return connection


def serve() -> None:
    connection = connected()
    channel = connection.channel()
    arguments = {"x-queue-type": QUEUE_TYPE}
    channel.queue_declare(QUEUE, durable=True, auto_delete=False, arguments=arguments)
    channel.basic_qos(0, AT_A_TIME, False)

    def answer(message: Any) -> None:
        reply = amqp.Message(
            orjson.dumps(orjson.loads(message.body)),
            content_type="application/json",
            correlation_id=message.properties["correlation_id"],
        )
        channel.basic_publish(reply, "", message.properties["reply_to"])
        channel.basic_ack(message.delivery_tag)

    channel.basic_consume(QUEUE, callback=answer)
    while True:
        connection.drain_events()


class Caller:
    def __init__(self) -> None:
        self.connection = connected()
        self.channel = self.connection.channel()
        self.channel.basic_consume(REPLIES, no_ack=True, callback=self.answered)
        self.sent = 0
        self.answers: dict[str, bytes] = {}

    def answered(self, message: Any) -> None:
        self.answers[message.properties["correlation_id"]] = message.body

    def send(self) -> str:
        self.sent += 1
        message = amqp.Message(
            orjson.dumps(DATA),
            content_type="application/json",
            correlation_id=str(self.sent),
            reply_to=REPLIES,
        )
        self.channel.basic_publish(message, "", QUEUE, mandatory=True)
        return str(self.sent)

    def one(self, units: int) -> None:
        for _ in range(units):
            id = self.send()
            while id not in self.answers:
                self.connection.drain_events()
            check(orjson.loads(self.answers.pop(id)))

    def futures(self, units: int) -> None:
        under_way = {self.send() for _ in range(min(units, AT_A_TIME))}
        left = units - len(under_way)
        while under_way:
            self.connection.drain_events()
            for id in list(self.answers):
                check(orjson.loads(self.answers.pop(id)))
                under_way.remove(id)
                if left:
                    under_way.add(self.send())
                    left -= 1


def rounds(mode: str) -> Callable[[int], None]:
    caller = Caller()
    return {"one": caller.one, "futures": caller.futures}[mode]


if __name__ == "__main__":
    play(serve, rounds)
