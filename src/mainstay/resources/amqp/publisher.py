"""Publish to RabbitMQ and know whether it was stored."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import amqp
from amqp.exceptions import MessageNacked

from mainstay.errors import Disconnected, NoRoute, NotConnected, Overloaded, Unconfirmed
from mainstay.texts import tls_reason

__all__ = ["CONFIRM_TIMEOUT_SECONDS", "Publisher"]

CONFIRM_TIMEOUT_SECONDS = 2.0
_IDLE_SECONDS = 10.0
"""Nobody sends heartbeats between two publishes, so an older connection may be gone."""


class Publisher:
    """Publishes with confirms, mandatory, and a limit on how long the confirm may take.

    One connection, used by one thread at a time.

    Args:
        connect: Opens a connection whose channels are in confirm mode.
        confirm_timeout_seconds: After this long without a confirm the outcome is unknown. During
            a disk or memory alarm RabbitMQ stores such messages when the alarm ends.
    """

    def __init__(
        self,
        connect: Callable[[], amqp.Connection],
        *,
        confirm_timeout_seconds: float = CONFIRM_TIMEOUT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._confirm_timeout_seconds = confirm_timeout_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: amqp.Connection | None = None
        self._channel: Any = None
        self._used_at = 0.0
        self._returned: list[str] = []

    def publish(
        self,
        body: bytes,
        *,
        exchange: str = "",
        routing_key: str,
        properties: Mapping[str, Any] | None = None,
    ) -> None:
        """Store one message, or say what is known.

        Args:
            body: The message; persistent.
            exchange: The default exchange, where none is given.
            routing_key: On the default exchange, the queue's name.
            properties: Basic properties of AMQP 0-9-1, such as `message_id` and
                `application_headers`.

        Raises:
            NotConnected: The broker cannot be reached: nothing was sent.
            NoRoute: No queue took it: nothing was stored.
            Overloaded: The queue refuses (it is full): nothing was stored.
            Unconfirmed: No confirm came in time: it may be stored or not.
            Disconnected: The connection broke before the confirm: it may be stored or not.
        """
        message = amqp.Message(body, delivery_mode=2, **dict(properties or {}))
        with self._lock:
            channel = self._open()
            self._returned.clear()
            try:
                channel.basic_publish(
                    message,
                    exchange,
                    routing_key,
                    mandatory=True,
                    confirm_timeout=self._confirm_timeout_seconds,
                )
            except MessageNacked as error:
                raise Overloaded(f"the queue {routing_key!r} takes no more messages") from error
            except TimeoutError as error:
                self._drop()
                raise Unconfirmed(
                    f"the broker did not confirm a message for {routing_key!r} within "
                    f"{self._confirm_timeout_seconds} s: it may be stored or not"
                ) from error
            except (amqp.AMQPError, OSError) as error:
                self._drop()
                raise Disconnected(
                    f"the connection broke while publishing to {routing_key!r}: the message may "
                    "be stored or not"
                ) from error
            self._used_at = self._clock()
            if self._returned:
                raise NoRoute(f"no queue takes {routing_key!r}: {self._returned[0]}")

    def close(self) -> None:
        """Close the connection; the next publish opens another."""
        with self._lock:
            self._drop()

    def _open(self) -> Any:
        if self._connection is not None and self._clock() - self._used_at > _IDLE_SECONDS:
            self._drop()
        if self._connection is None:
            try:
                self._connection = self._connect()
                self._channel = self._connection.channel()
                self._channel.events["basic_return"].add(self._on_return)
            except (amqp.AMQPError, OSError) as error:
                self._drop()
                raise NotConnected(
                    f"nothing was sent: RabbitMQ cannot be reached{tls_reason(error)}"
                ) from error
            self._used_at = self._clock()
        return self._channel

    def _on_return(
        self, _error: object, _exchange: str, routing_key: str, _message: object
    ) -> None:
        self._returned.append(f"the broker returned {routing_key!r}")

    def _drop(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            with suppress(amqp.AMQPError, OSError):
                connection.collect()  # no farewell: a broker that hangs would not answer it
