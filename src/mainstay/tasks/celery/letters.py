"""How does a message that a worker cannot do become a dead letter, with its reason?

On Redis our transport writes the letter in the step that takes the message away. Elsewhere the
protocol has no room for a reason (`basic.reject` carries none), so a confirmed copy goes to the
dead-letter queue before the message is acknowledged: a crash in between leaves both, never none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kombu import Queue

from mainstay.context import PRINCIPAL_TOKEN
from mainstay.deadletters import DeadLetter, dead_letters_of
from mainstay.errors import Disconnected, NotConnected
from mainstay.resources.amqp.connection import connect
from mainstay.resources.amqp.deadletters import AmqpDeadLetters, headers_of
from mainstay.resources.amqp.publisher import Publisher
from mainstay.tasks.celery.profiles import transport_of

if TYPE_CHECKING:
    from mainstay.tasks.celery.app import App

__all__ = [
    "DELIVERIES",
    "OF_ONE_LIFE",
    "Undertaker",
    "discard_all",
    "letter_of",
    "minimal_letter_of",
    "note",
    "on_stored",
    "text_of_header",
    "was_stored",
]

logger = logging.getLogger(__name__)

DELIVERIES = "x-delivery-count"
"""How often the message was given back unfinished; RabbitMQ's quorum queues write it, and ours
on Redis."""

OF_ONE_LIFE = frozenset({DELIVERIES, "expires"})
"""The headers that a dead letter leaves behind when it is put back: its new life is not counted
from the old one, and is not over before it begins."""

_DETAIL_CHARACTERS = 2_000
_HEADER_CHARACTERS = 1_024
_HEADERS = 64
_ID_CHARACTERS = 255


def note(message: Any, reason: str, detail: str = "") -> None:
    """Write on *message* why it is about to be rejected; the first reason stays."""
    if not hasattr(message, "reason"):
        message.reason, message.detail = reason, detail[:_DETAIL_CHARACTERS]


def on_stored(message: Any, tell: Callable[[], None]) -> None:
    """Have *tell* called once the dead letter of *message* is stored: a rejection may only be
    carried out later, and may not be.
    """
    message.tell_stored = tell


def was_stored(message: Any) -> None:
    """The dead letter of *message* is stored."""
    tell = message.__dict__.pop("tell_stored", None)
    if tell is not None:
        tell()


def letter_of(message: Any, *, queue: str, envelope: bytes = b"") -> DeadLetter:
    """Return the dead letter of *message*, whatever is wrong with it."""
    headers = message.headers if isinstance(message.headers, dict) else {}
    return DeadLetter(
        id=text_of_header(headers.get("id"))
        or text_of_header(message.properties.get("correlation_id")),
        kind="task",
        queue=queue,
        reason=getattr(message, "reason", "rejected"),
        name=text_of_header(headers.get("task")),
        detail=getattr(message, "detail", ""),
        headers={
            str(name)[:_ID_CHARACTERS]: str(value)[:_HEADER_CHARACTERS]
            for name, value in list(headers.items())[:_HEADERS]
            if value is not None and name != PRINCIPAL_TOKEN
        },
        body=_bytes_of(message),
        envelope=envelope,
    )


def minimal_letter_of(message: Any, *, queue: str, envelope: bytes) -> DeadLetter:
    """Return the dead letter of a *message* of which nothing but its bytes can be kept."""
    return DeadLetter(
        id="",
        kind="task",
        queue=queue,
        reason=getattr(message, "reason", "rejected"),
        envelope=envelope,
    )


def discard_all(url: str, queue: str, matching: Callable[[DeadLetter], bool]) -> bool:
    """Discard the dead letters of *queue* that match, on the broker at *url*; says whether it is
    certain that none of those that were there is left.
    """
    match transport_of(url):
        case "redis":
            from mainstay.resources.redis import RedisDeadLetters
            from mainstay.resources.redis.client import connect as connect_redis

            with connect_redis(url) as client:
                RedisDeadLetters(client, {}).discard(queue, matching)
            return True
        case "amqp":
            return AmqpDeadLetters(url).discard_all(queue, matching)
        case _:
            return True  # in memory: nobody can look at them


class Undertaker:
    """Copies messages to the dead-letter queues of a broker that has no better way."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._publisher: Publisher | None = None

    def copy(self, message: Any, queue: str) -> bool:
        """Store *message* among the dead letters of *queue*; says whether that is certain."""
        letter = letter_of(message, queue=queue)
        # A token is over long before anybody retries, and nobody who looks here is to have it.
        headers = _headers_now(message)
        headers.pop(PRINCIPAL_TOKEN, None)
        headers |= headers_of(letter)
        try:
            self._store(letter, message, headers)
        except Exception as error:  # noqa: BLE001 - the broker then dead-letters it, without a reason
            logger.warning(
                "a dead letter of %s could not be given its reason %s (%s); the broker keeps it "
                "without",
                queue,
                letter.reason,
                type(error).__name__,
            )
            return False
        return True

    def put_back(self, message: Any, queue: str) -> bool:
        """Put a copy of *message* into its *queue*, with its delivery counted; says whether that is
        certain. For a queue that does not count by itself.
        """
        headers = _headers_now(message)
        count = headers.get(DELIVERIES) or 0
        if not isinstance(count, int):
            return False
        headers[DELIVERIES] = count + 1
        properties = {**message.properties, "application_headers": headers}
        properties.pop("delivery_mode", None)  # the publisher's
        try:
            self._publish(_bytes_of(message), queue, properties)
        except Exception as error:  # noqa: BLE001 - it is then done without being counted
            logger.warning(
                "a delivery from %s could not be counted (%s)", queue, type(error).__name__
            )
            return False
        return True

    def close(self) -> None:
        """Let the connection go."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.close()

    def _store(self, letter: DeadLetter, message: Any, headers: dict[str, Any]) -> None:
        dead = dead_letters_of(letter.queue)
        content_type = str(message.content_type or "application/octet-stream")
        content_encoding = str(message.content_encoding or "binary")
        if transport_of(self._app.conf.broker_url) != "amqp":
            with self._app.producer_pool.acquire(block=True) as producer:
                producer.publish(
                    letter.body,
                    exchange="",
                    routing_key=dead,
                    declare=[Queue(dead)],
                    content_type=content_type,
                    content_encoding=content_encoding,
                    headers=headers,
                    correlation_id=letter.id,
                )
            return
        properties = {
            "content_type": content_type[:_ID_CHARACTERS],
            "content_encoding": content_encoding[:_ID_CHARACTERS],
            "correlation_id": letter.id,
            "application_headers": headers,
        }
        self._publish(letter.body, dead, properties)

    def _publish(self, body: bytes, routing_key: str, properties: dict[str, Any]) -> None:
        publisher = self._here()
        try:
            publisher.publish(body, routing_key=routing_key, properties=properties)
        except (NotConnected, Disconnected):
            publisher.publish(body, routing_key=routing_key, properties=properties)

    def _here(self) -> Publisher:
        # A connection of its own. On the one that consumes, waiting for the confirm would handle
        # the deliveries that arrive meanwhile; those of kombu's pool are shut down, for both
        # sides, by each child that is forked.
        if self._publisher is None:
            url = str(self._app.conf.broker_url)
            self._publisher = Publisher(
                lambda: connect(url, confirm_publish=True, heartbeat_seconds=0)
            )
        return self._publisher


def _headers_now(message: Any) -> dict[str, Any]:
    """Return the headers of *message* as they fit its body now."""
    headers = dict(message.headers) if isinstance(message.headers, dict) else {}
    if not message.errors:
        headers.pop("compression", None)  # kombu has decompressed the body
    return headers


def _bytes_of(message: Any) -> bytes:
    body = message.body
    return body if isinstance(body, bytes) else str(body or "").encode(errors="replace")


def text_of_header(value: object) -> str:
    """Return the text of a header, as long as a name may be; what is no text is empty."""
    return value[:_ID_CHARACTERS] if isinstance(value, str) else ""
