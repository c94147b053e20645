"""How much waits in a queue, how long has it waited, and how much is dead?"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import amqp
import orjson

from mainstay.deadletters import dead_letters_of
from mainstay.resources.amqp.connection import connect as connect_amqp
from mainstay.tasks.celery.profiles import transport_of
from mainstay.tasks.celery.sending import SENT_AT

__all__ = ["Depth", "Depths", "depths_of"]


@dataclass(frozen=True, slots=True)
class Depth:
    """What is in one queue; ``None`` where the broker does not say.

    Args:
        ready: Messages that wait.
        unacknowledged: Messages that a worker holds.
        oldest_seconds: How long the oldest that waits has waited. RabbitMQ does not say: to know,
            one would have to take the message out, which counts as a delivery.
        dead: Dead letters.
    """

    ready: int
    unacknowledged: int | None = None
    oldest_seconds: float | None = None
    dead: int | None = None


class Depths(Protocol):
    """Looks into the queues of one broker; used by one thread."""

    def look(self, queues: Iterable[str]) -> Mapping[str, Depth]:
        """Ask for *queues*; one that does not exist is left out. Raises when there is no answer."""

    def close(self) -> None:
        """Let the connection go."""


def depths_of(url: str) -> Depths | None:
    """Return what looks into the queues of the broker at *url*; ``None`` for one in memory."""
    transport = transport_of(url)
    if transport == "amqp":
        return _AmqpDepths(url)
    return _RedisDepths(url) if transport == "redis" else None


class _AmqpDepths:
    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None

    def look(self, queues: Iterable[str]) -> Mapping[str, Depth]:
        try:
            if self._connection is None:
                self._connection = connect_amqp(self._url, heartbeat_seconds=0)
            found = {}
            for queue in queues:
                ready = self._count(queue)
                if ready is not None:
                    found[queue] = Depth(ready, dead=self._count(dead_letters_of(queue)))
        except Exception:
            self.close()
            raise
        return found

    def _count(self, queue: str) -> int | None:
        channel = self._connection.channel()
        try:
            return int(channel.queue_declare(queue, passive=True).message_count)
        except amqp.NotFound:  # which closes the channel
            return None
        finally:
            if channel.is_open:
                channel.close()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(amqp.AMQPError, OSError):
                connection.collect()


class _RedisDepths:
    def __init__(self, url: str) -> None:
        from mainstay.resources.redis.client import connect as connect_redis

        self._client = connect_redis(url)

    def look(self, queues: Iterable[str]) -> Mapping[str, Depth]:
        from mainstay.tasks.celery.transport import FLIGHT_PREFIX, FLIGHTS

        names = list(queues)
        flights: Any = self._client.zrange(FLIGHTS, 0, -1)
        flown = [flight.decode() for flight in flights]
        with self._client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.llen(name)
                pipe.lindex(name, -1)
                pipe.xlen(dead_letters_of(name))
            for flight in flown:
                pipe.llen(flight)
            answers = pipe.execute()
        held = dict.fromkeys(names, 0)
        for flight, count in zip(flown, answers[3 * len(names) :], strict=True):
            name = flight.removeprefix(FLIGHT_PREFIX).partition(":")[2]
            held[name] = held.get(name, 0) + count
        return {
            name: Depth(
                ready=answers[3 * index],
                unacknowledged=held[name],
                oldest_seconds=_age(answers[3 * index + 1]),
                dead=answers[3 * index + 2],
            )
            for index, name in enumerate(names)
        }

    def close(self) -> None:
        self._client.close()


def _age(item: bytes | None) -> float | None:
    if item is None:
        return 0.0
    try:
        return max(time.time() - float(orjson.loads(item)["headers"][SENT_AT]), 0.0)
    except (KeyError, TypeError, ValueError):
        return None
