"""Dead letters on RabbitMQ: one quorum queue a queue, each message with the headers it died with.

What Mainstay buries carries its reason in ``x-mainstay-…`` headers; what the broker itself
dead-letters (a delivery limit, a full queue, an expired message) carries `x-death`,
https://www.rabbitmq.com/docs/dlx#effects.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import amqp

from mainstay.context import PRINCIPAL_TOKEN
from mainstay.deadletters import SUFFIX, DeadLetter, Kind, dead_letters_of, unnamed
from mainstay.errors import Unavailable
from mainstay.resources.amqp.connection import connect
from mainstay.resources.amqp.management import Management
from mainstay.resources.amqp.publisher import Publisher
from mainstay.texts import tls_reason

__all__ = ["DETAIL", "DIED_AT", "KIND", "NAME", "QUEUE", "REASON", "AmqpDeadLetters", "headers_of"]

REASON = "x-mainstay-reason"
DETAIL = "x-mainstay-detail"
QUEUE = "x-mainstay-queue"
KIND = "x-mainstay-kind"
NAME = "x-mainstay-name"
DIED_AT = "x-mainstay-died-at"
# Ours, and the token of whom the work was for: nobody who looks here is to have it, and it is over
# long before anybody retries.
_HIDDEN = frozenset({REASON, DETAIL, QUEUE, KIND, NAME, DIED_AT, PRINCIPAL_TOKEN})

_MANAGEMENT_TIMEOUT_SECONDS = 2.0
_SILENCE_SECONDS = 5.0
# The most that AMQP can say; without a number a quorum queue gives a consumer 2,000.
_PREFETCH = 65_535
_GIVEN_BACK_SECONDS, _PAUSE_SECONDS = 2.0, 0.01
# What the broker says in x-death, in the words of our own reasons.
_BROKER_REASONS = {
    "delivery_limit": "delivery-limit",
    "expired": "expired",
    "maxlen": "queue-full",
    "rejected": "rejected",
}


def headers_of(letter: DeadLetter) -> dict[str, Any]:
    """Return the headers that a copy in the dead-letter queue carries besides its own."""
    return {
        REASON: letter.reason,
        DETAIL: letter.detail,
        QUEUE: letter.queue,
        KIND: letter.kind,
        NAME: letter.name,
        DIED_AT: f"{letter.died_at:.6f}",
    }


class AmqpDeadLetters:
    """The queues `<queue>_dlq` of one virtual host.

    Args:
        url: The broker.
        management_url: Its management API, which alone can list queues; without it only *known*
            queues are looked at.
        known: Names of queues that exist by the settings.
    """

    def __init__(
        self, url: str, *, management_url: str | None = None, known: Iterable[str] = ()
    ) -> None:
        self._url = url
        self._management_url = management_url
        self._known = tuple(known)

    def queues(self) -> list[str]:
        # Who is empty is asked of the queue itself: the management API is seconds behind.
        names = set(self._listed()) | set(self._known)
        with _reached(), connect(self._url) as connection:
            return sorted(name for name in names if _length(connection, name))

    def letters(self, queue: str) -> Iterator[DeadLetter]:
        # Messages that are looked at stay unacknowledged, so each is seen once; closing the
        # channel gives all of them back in their places.
        with _reached(), connect(self._url) as connection:
            channel, count = connection.channel(), 0
            try:
                with closing(_messages(connection, channel, queue)) as messages:
                    for message in messages:
                        count += 1
                        yield _letter(message, queue)
            except amqp.NotFound:
                return
            finally:
                if count and channel.is_open:
                    channel.close()
                    _await_ready(connection, queue, count)

    def retry(self, queue: str, matching: Callable[[DeadLetter], bool]) -> int:
        publisher = Publisher(lambda: connect(self._url, confirm_publish=True))
        try:
            return self._take(queue, matching, publisher)
        finally:
            publisher.close()

    def discard(self, queue: str, matching: Callable[[DeadLetter], bool]) -> int:
        return self._take(queue, matching, None)

    def discard_all(self, queue: str, matching: Callable[[DeadLetter], bool]) -> bool:
        """As :meth:`discard`; says whether all were seen: not those that somebody else holds
        meanwhile, who may be looking at them.
        """
        seen = 0

        def seeing(letter: DeadLetter) -> bool:
            nonlocal seen
            seen += 1
            return matching(letter)

        with _reached(), connect(self._url) as connection:
            there, holders = _counts(connection, queue)
        self._take(queue, seeing, None)
        return not holders and seen >= there

    def _take(
        self,
        queue: str,
        matching: Callable[[DeadLetter], bool],
        publisher: Publisher | None,
    ) -> int:
        count = 0
        with _reached(), connect(self._url) as connection:
            channel = connection.channel()
            try:
                with closing(_messages(connection, channel, queue)) as messages:
                    for message in messages:
                        letter = _letter(message, queue)
                        if not matching(letter):
                            continue
                        if publisher is not None:
                            _put_back(publisher, letter, message)
                        channel.basic_ack(message.delivery_tag)
                        count += 1
            except amqp.NotFound:
                return count
        return count

    def _listed(self) -> list[str]:
        if self._management_url is None:
            return []
        management = Management(
            self._url, self._management_url, timeout_seconds=_MANAGEMENT_TIMEOUT_SECONDS
        )
        try:
            names = management.names()
        except (OSError, ValueError):
            return []  # the known names still answer
        return [name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)]


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except (amqp.AMQPError, OSError) as error:
        reason = tls_reason(error)
        raise Unavailable(
            f"the dead letters cannot be seen now: RabbitMQ does not answer{reason}"
        ) from error


def _length(connection: amqp.Connection, queue: str) -> int:
    return _counts(connection, queue)[0]


def _counts(connection: amqp.Connection, queue: str) -> tuple[int, int]:
    """Return how many dead letters can be taken, and how many consumers there are: those that hold
    a letter of a quorum queue are counted, also when they were cancelled, or asked by `basic.get`.
    """
    channel = connection.channel()
    try:
        declared = channel.queue_declare(dead_letters_of(queue), passive=True)
    except amqp.NotFound:
        return 0, 0
    channel.close()
    return int(declared.message_count), int(declared.consumer_count)


def _messages(
    connection: amqp.Connection, channel: amqp.Channel, queue: str
) -> Generator[amqp.Message, None, None]:
    """Go through the dead letters that are there now, oldest first; *channel* holds all of them.

    What is put back may die again meanwhile, and is not taken twice: it comes after these. They
    are delivered rather than asked for one by one: each answer to that is a round trip through the
    log of a quorum queue, and 5,000 of them took a minute on a busy machine.

    Raises:
        amqp.NotFound: There is no such queue.
    """
    there = _length(connection, queue)
    if not there:
        return
    delivered: deque[amqp.Message] = deque()
    consumers: list[str] = []
    channel.basic_qos(0, _PREFETCH, False)
    try:
        for number in range(there):
            if number % _PREFETCH == 0:  # the consumers so far hold as many as they may
                name = dead_letters_of(queue)
                consumers.append(channel.basic_consume(name, callback=delivered.append))
            while not delivered:
                try:
                    connection.drain_events(timeout=_SILENCE_SECONDS)
                except TimeoutError:
                    return  # somebody else has taken, or looks at, the rest
            yield delivered.popleft()
    finally:
        if channel.is_open:
            for consumer in consumers:
                channel.basic_cancel(consumer)


def _await_ready(connection: amqp.Connection, queue: str, count: int) -> None:
    """Wait until *count* messages can be taken again, or somebody else has certainly taken some:
    RabbitMQ gives back what a channel held a moment after the channel is closed.
    """
    ends_at = time.monotonic() + _GIVEN_BACK_SECONDS
    while _length(connection, queue) < count and time.monotonic() < ends_at:
        time.sleep(_PAUSE_SECONDS)


def _letter(message: amqp.Message, queue: str) -> DeadLetter:
    properties = message.properties
    headers: Mapping[str, Any] = properties.get("application_headers") or {}
    deaths = headers.get("x-death")
    death: Mapping[str, Any] = deaths[0] if isinstance(deaths, list) and deaths else {}
    reason = headers.get(REASON) or _BROKER_REASONS.get(str(death.get("reason")), "rejected")
    kind: Kind = headers.get(KIND) or ("task" if "task" in headers else "call")
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
    return DeadLetter(
        id=str(
            headers.get("id")
            or properties.get("message_id")
            or properties.get("correlation_id")
            or unnamed(body)
        ),
        kind=kind,
        queue=str(headers.get(QUEUE) or death.get("queue") or queue),
        reason=str(reason),
        name=str(headers.get(NAME) or headers.get("task") or ""),
        detail=str(headers.get(DETAIL) or ""),
        died_at=_died_at(headers, death),
        headers={str(name): str(value) for name, value in headers.items() if name not in _HIDDEN},
        body=body,
        position=str(message.delivery_tag),
    )


def _died_at(headers: Mapping[str, Any], death: Mapping[str, Any]) -> float:
    try:
        return float(headers[DIED_AT])
    except (KeyError, TypeError, ValueError):
        pass
    try:
        return float(death["time"].timestamp())
    except (AttributeError, KeyError, TypeError, ValueError):
        return time.time()


def _put_back(publisher: Publisher, letter: DeadLetter, message: amqp.Message) -> None:
    properties = dict(message.properties)
    headers = dict(properties.pop("application_headers", None) or {})
    for name in list(headers):
        # The broker counts deliveries and deaths anew for a message that is published anew.
        if name in _HIDDEN or name.startswith(("x-death", "x-first-death", "x-last-death")):
            del headers[name]
    headers.pop("x-delivery-count", None)
    # The deadline that it missed is over: a call's, and a task's.
    properties.pop("expiration", None)
    headers.pop("expires", None)
    properties.pop("delivery_mode", None)
    publisher.publish(
        letter.body,
        routing_key=letter.queue,
        properties=properties | {"application_headers": headers},
    )
