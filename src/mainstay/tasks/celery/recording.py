"""What would Celery publish for a task? Kept, to leave with a commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kombu import serialization
from kombu.compression import compress

from mainstay.context import PRINCIPAL_TOKEN
from mainstay.errors import MainstayError
from mainstay.outgoing import OutboxMessage

if TYPE_CHECKING:
    from kombu import Queue

    from mainstay.tasks.celery.reports import Reports

__all__ = ["Acceptance", "Keeper", "Recorder"]


class Recorder:
    """Stands where Celery expects a producer, and keeps what it is given to publish.

    So routes, signals, callbacks, stamps and whatever else Celery makes a message of are as they
    are for a task that is sent at once.
    """

    def __init__(self) -> None:
        self._published: tuple[Any, dict[str, Any]] | None = None

    @property
    def connection(self) -> Recorder:
        return self

    @contextmanager
    def _reraise_as_library_errors(self) -> Iterator[None]:
        yield

    def publish(self, body: Any, **told: Any) -> None:
        if self._published is None:  # what comes after the task is an event that it was sent
            self._published = body, told

    def message(self, id: str, name: str) -> OutboxMessage:
        """Return the message of the task.

        Raises:
            kombu.exceptions.EncodeError: Its arguments cannot be written.
        """
        if self._published is None:
            raise RuntimeError(f"Celery has published nothing for {name}")
        body, told = self._published
        return _message(id, name, body, told)


class Acceptance:
    """The first word on a task that is sent at once, and what would send it again.

    Args:
        queue: Where a delay ends, for a task that is sent into one; else its message says it.
        delay_seconds: The task is due then.
    """

    def __init__(
        self,
        reports: Reports,
        id: str,
        name: str,
        queue: Queue | None,
        correlation_id: str,
        *,
        delay_seconds: float,
    ) -> None:
        self._reports = reports
        self._id = id
        self._name = name
        self._queue = queue
        self._correlation_id = correlation_id
        self._delay_seconds = delay_seconds
        self._is_tried = False
        self._is_news: bool | None = None

    def keep(self, message: OutboxMessage) -> None:
        """Note that the task waits, before it is published."""
        if self._is_news is not None:
            return  # it is published once more
        queue = self._queue
        if queue is not None:
            way = {"queue": queue.name, "exchange": queue.exchange.name}
            route = {**message.route, **way, "routing_key": queue.routing_key}
            message = replace(message, destination=queue.name, route=route)
        self.note(message.destination, message)

    def refused(self, error: BaseException, queue: str) -> None:
        """Note that the broker did not take it, for certain."""
        if not self._is_tried:
            with suppress(MainstayError):  # the sender hears of the broker
                self.note(queue)
        if self._is_news:
            self._reports.not_sent(self._id, error)

    def note(self, queue: str, message: OutboxMessage | None = None) -> None:
        """Note that the task waits on *queue*."""
        self._is_tried = True
        self._is_news = self._reports.sent(
            self._id,
            self._name,
            queue,
            self._correlation_id,
            None,
            delay_seconds=self._delay_seconds,
            message=message,
        )


class Keeper:
    """A producer that has what it is given to publish kept before it is.

    Args:
        producer: What publishes it.
        keep: Given the message; raises when it must not be published.
    """

    def __init__(
        self, producer: Any, id: str, name: str, keep: Callable[[OutboxMessage], object]
    ) -> None:
        self._producer = producer
        self._id = id
        self._name = name
        self._keep: Callable[[OutboxMessage], object] | None = keep

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, body: Any, **options: Any) -> Any:
        keep, self._keep = self._keep, None
        if keep is None:  # what comes after the task is an event that it was sent
            return self._producer.publish(body, **options)
        message = _message(self._id, self._name, body, options)
        keep(message)
        # As it was encoded for that.
        headers = dict(message.headers)
        if message.token is not None:
            headers[PRINCIPAL_TOKEN] = message.token
        options |= {"headers": headers, "serializer": None, "compression": None}
        options["content_type"] = message.route["content_type"]
        options["content_encoding"] = message.route["content_encoding"]
        return self._producer.publish(message.body, **options)


def _message(id: str, name: str, body: Any, options: Mapping[str, Any]) -> OutboxMessage:
    """Return the message of a task that Celery publishes."""
    options = dict(options)
    headers = dict(options.pop("headers"))
    content_type, content_encoding, data = serialization.dumps(body, options.pop("serializer"))
    if compression := options.pop("compression"):
        data, headers["compression"] = compress(data, compression)
    exchange, routing_key = options.pop("exchange"), options.pop("routing_key")
    queue = _queue_of(options.pop("declare"))
    return OutboxMessage(
        id=id,
        kind="task",
        name=name,
        destination=queue or str(routing_key),
        token=headers.pop(PRINCIPAL_TOKEN, None),
        headers=headers,
        route={
            "queue": queue,
            "exchange": str(getattr(exchange, "name", exchange) or ""),
            "routing_key": str(routing_key or ""),
            "content_type": content_type,
            "content_encoding": content_encoding,
            "properties": _properties(options),
        },
        body=data if isinstance(data, bytes) else data.encode(content_encoding),
    )


# Whoever publishes sees to these. An `expiration` counts from then, which is not what was meant:
# the header `expires` says when, and the worker minds it.
_NOT_KEPT = frozenset(
    {
        *("confirm_timeout", "delivery_mode", "expiration", "immediate", "mandatory"),
        *("retry", "retry_policy", "timeout"),
    }
)


def _properties(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in options.items()
        if name not in _NOT_KEPT and value not in (None, "")
    }


def _queue_of(declare: Sequence[Any] | None) -> str:
    return str(declare[0].name) if declare else ""
