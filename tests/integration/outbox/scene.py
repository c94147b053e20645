"""A service with an outbox, and a broker that does as it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

from mainstay.config import Settings
from mainstay.context import new_id
from mainstay.outgoing import OutboxMessage, Publisher
from mainstay.resources.sqlalchemy import Database
from mainstay.resources.sqlalchemy.outbox import Outbox
from mainstay.resources.sqlalchemy.relay import Relays
from mainstay.service import Resource, Service

__all__ = ["Broker", "Scene", "message"]


def message(
    name: str = "send_mail", *, id: str | None = None, key: str | None = None, queue: str = "mails"
) -> OutboxMessage:
    return OutboxMessage(
        id=id or new_id(),
        kind="task",
        name=name,
        destination=queue,
        key=key,
        body=b"[]",
        headers={"x-correlation-id": "c-1"},
        route={"queue": queue},
        token="a secret",
    )


class Broker(Resource):
    """Remembers what was published, and refuses what it is told to refuse.

    Args:
        keeps_order: Are messages to come in the order of their commits?
    """

    name = "broker"
    kind: ClassVar[Literal["task", "event"]] = "task"

    def __init__(self, *, keeps_order: bool = False) -> None:
        self.keeps_order = keeps_order
        self.published: list[OutboxMessage] = []
        self.buried_ids: list[str] = []
        self.refuses: Callable[[OutboxMessage], Exception | None] = lambda _message: None
        self._lock = threading.Lock()

    @property
    def ids(self) -> list[str]:
        return [each.id for each in self.published]

    def outbox_publisher(self) -> Publisher:
        return self  # type: ignore[return-value] # one that is told per instance what a class says

    def publish(self, messages: Sequence[OutboxMessage]) -> list[Exception | None]:
        answers = [self.refuses(each) for each in messages]
        with self._lock:
            taken = zip(messages, answers, strict=True)
            self.published += [each for each, answer in taken if answer is None]
        return answers

    def buried(self, session: Any, message: OutboxMessage, error: Exception) -> None:
        self.buried_ids.append(message.id)

    def ping(self) -> None:
        pass

    def close(self) -> None:
        pass


class Scene:
    """One process of a service: its database, its outbox, and the broker it relays to."""

    def __init__(self, url: str, *, broker: Broker | None = None, limit: int = 1000) -> None:
        self.database = Database(url=url)
        self.outbox = Outbox(self.database)
        self.broker = broker or Broker()
        self.service = Service(
            Settings(env="test", service_name="shop", database_url=url, outbox_limit=limit),
            self.database,
            self.outbox,
            self.broker,
        )

    def send(self, *messages: OutboxMessage, delay_seconds: float = 0.0) -> list[str]:
        """Commit messages, each in a transaction of its own."""
        for each in messages:
            with self.database.session() as session:
                self.outbox.put(session, each, delay_seconds=delay_seconds)
        return [each.id for each in messages]

    @contextmanager
    def relaying(self) -> Iterator[Relays]:
        relays = Relays(self.service)
        relays.start()
        try:
            yield relays
        finally:
            relays.close()

    def close(self) -> None:
        self.service.stop()
