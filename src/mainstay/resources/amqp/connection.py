"""How to reach RabbitMQ: one connection belongs to one thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp

from mainstay.errors import Unavailable
from mainstay.resources.amqp.alarms import ALARM_MESSAGE, has_alarm
from mainstay.resources.amqp.publisher import Publisher
from mainstay.service import Resource

__all__ = ["RabbitMQ", "connect"]

CONNECT_TIMEOUT_SECONDS = 1.5
WRITE_TIMEOUT_SECONDS = 2.0
HEARTBEAT_SECONDS = 15
_ASK_SECONDS = 1.0


def connect(
    url: str,
    *,
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    heartbeat_seconds: int = HEARTBEAT_SECONDS,
    **options: Any,
) -> amqp.Connection:
    """Return an open connection to *url* (`amqp://` or `amqps://`).

    The connection belongs to the thread that uses it. A broker that no longer reads makes a write
    fail after two seconds instead of blocking for ever.

    Raises:
        OSError: The server cannot be reached.
        amqp.AMQPError: It refuses.
    """
    parts = urlsplit(url)
    tls = parts.scheme == "amqps"
    connection = amqp.Connection(
        f"{parts.hostname or 'localhost'}:{parts.port or (5671 if tls else 5672)}",
        userid=unquote(parts.username or "guest"),
        password=unquote(parts.password or "guest"),
        virtual_host=unquote(parts.path[1:]) or "/",
        # With a name to compare, py-amqp checks that the certificate is for this host; else not.
        ssl={"server_hostname": parts.hostname} if tls else False,
        connect_timeout=connect_timeout_seconds,
        # How long the handshake may take; whoever reads later sets a limit of its own.
        read_timeout=connect_timeout_seconds,
        write_timeout=WRITE_TIMEOUT_SECONDS,
        heartbeat=heartbeat_seconds,
        login_method="PLAIN",
        **options,
    )
    connection.connect()
    return connection


class RabbitMQ(Resource):
    """The service's RabbitMQ.

    Args:
        url: The server; `rabbitmq_url` of the settings by default.
        optional: Without it the service is degraded, not unhealthy.
    """

    name = "rabbitmq"

    def __init__(self, *, url: str | None = None, optional: bool = False) -> None:
        self._url = url
        self.optional = optional
        self._pid = 0
        self._publisher: Publisher | None = None
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The server's address.

        Raises:
            Misconfigured: Nobody named one.
        """
        return self._url or str(self.service.settings.need("rabbitmq_url"))

    @property
    def is_named(self) -> bool:
        return bool(self._url or self.service.settings.rabbitmq_url)

    @property
    def publisher(self) -> Publisher:
        """Publishes with confirms; threads may share it, and take turns."""
        with self._here():
            if self._publisher is None:
                url = self.url
                self._publisher = Publisher(lambda: connect(url, confirm_publish=True))
            return self._publisher

    def ping(self) -> Mapping[str, object] | None:
        """Ask whether it takes messages.

        Raises:
            Unavailable: It has raised an alarm.
        """
        with connect(self.url, connect_timeout_seconds=_ASK_SECONDS, heartbeat_seconds=0) as asked:
            version = asked.server_properties.get("version")
            if has_alarm(asked, timeout_seconds=_ASK_SECONDS):
                raise Unavailable(ALARM_MESSAGE)
        return {"server_version": str(version)} if version else None

    def close(self) -> None:
        with self._here():
            publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.close()

    def _here(self) -> threading.Lock:
        # The parent's connection is the parent's, and its lock may have been held by a thread
        # that did not survive the fork.
        if self._pid != os.getpid():
            self._lock, self._publisher, self._pid = threading.Lock(), None, os.getpid()
        return self._lock
