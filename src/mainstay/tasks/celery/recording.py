"""What would Celery publish for a task? Kept, to leave with a commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kombu import serialization
from kombu.compression import compress

from mainstay.context import PRINCIPAL_TOKEN
from mainstay.outgoing import OutboxMessage

__all__ = ["Recorder"]


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
        headers = dict(told.pop("headers"))
        content_type, content_encoding, data = serialization.dumps(body, told.pop("serializer"))
        if compression := told.pop("compression"):
            data, headers["compression"] = compress(data, compression)
        exchange, routing_key = told.pop("exchange"), told.pop("routing_key")
        queue = _queue_of(told.pop("declare"))
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
                "properties": _properties(told),
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


def _properties(told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in told.items()
        if name not in _NOT_KEPT and value not in (None, "")
    }


def _queue_of(declare: Sequence[Any] | None) -> str:
    return str(declare[0].name) if declare else ""
