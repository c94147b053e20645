"""How do the tasks that leave the outbox come to the broker, many at a time?

A whole batch is under way at once, and each message is confirmed by itself: by RabbitMQ's
confirms, by Redis' answers. What becomes of a message that is not is decided by the relay.
"""

from __future__ import annotations

import logging
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

import amqp
import orjson
from typing_extensions import override

from mainstay.context import PRINCIPAL_TOKEN
from mainstay.errors import (
    Bury,
    Disconnected,
    NoRoute,
    NotConnected,
    Overloaded,
    Unconfirmed,
)
from mainstay.outgoing import Kind, OutboxMessage
from mainstay.tasks.celery import sending
from mainstay.tasks.celery.profiles import transport_of, without_confirms
from mainstay.tasks.celery.sending import SENT_AT
from mainstay.tasks.celery.transport import Channel, Transport
from mainstay.tasks.status import State, TaskStatus
from mainstay.tasks.telling import error_of
from mainstay.taskstates import ANY_EPOCH
from mainstay.texts import tls_reason

if TYPE_CHECKING:
    from mainstay.tasks.celery.app import App

__all__ = ["TaskPublisher"]

logger = logging.getLogger(__name__)

_PERSISTENT = 2
# Longer than a sender is made to wait: what is given up here is published twice.
_CONFIRM_SECONDS = 5.0
# Nobody sends heartbeats between two batches, so an older connection may be gone.
_IDLE_SECONDS = 10.0
_GOODBYE_SECONDS = 0.1

Answers = list[Exception | None]


class TaskPublisher:
    """Publishes the tasks of one application, on a connection of its own: those of kombu's pool
    are shut down, for both sides, by each child that is forked.
    """

    kind: ClassVar[Kind] = "task"
    keeps_order: ClassVar[bool] = False

    def __init__(self, app: App) -> None:
        self._app = app
        self._wire: _Wire | None = None

    def publish(self, messages: Sequence[OutboxMessage]) -> Answers:
        if self._wire is not None and self._wire.idle_seconds > _IDLE_SECONDS:
            self.close()
        if self._wire is None:
            try:
                self._wire = self._connected()
            except Exception as error:  # noqa: BLE001 - whatever keeps it away is the broker's
                away = NotConnected(
                    f"the broker of tasks cannot be reached ({type(error).__name__})"
                    f"{tls_reason(error)}"
                )
                away.__cause__ = error
                return [away] * len(messages)
        answers = self._wire.publish(messages)
        if self._wire.is_broken:
            self.close()
        return answers

    def buried(self, session: Any, message: OutboxMessage, error: Exception) -> None:
        store = self._app.reports.store
        if store is not None:
            died = TaskStatus(
                id=message.id,
                name=message.name,
                queue=message.destination,
                state=State.FAILURE,
                epoch=ANY_EPOCH,
                error=error_of(error, self._app.redaction),
            )
            store.record(died, session=session)

    def close(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def _connected(self) -> _Wire:
        app = self._app
        kind = transport_of(app.conf.broker_url)
        # Confirms are waited for here, for all messages of a batch together.
        connection = app.connection_for_write(
            heartbeat=0,
            transport=PipedTransport if kind == "redis" else None,
            transport_options=without_confirms(kind),
        )
        wires: dict[str, type[_Wire]] = {"amqp": _Confirmed, "redis": _Piped}
        try:
            return wires.get(kind, _OneByOne)(app, connection)
        except BaseException:
            _collect(connection)
            raise


class _Wire(ABC):
    """A connection to the broker, and the queues that are known to be there."""

    is_broken = False

    def __init__(self, app: App, connection: Any) -> None:
        self._app = app
        self._connection = connection
        self._channel = connection.default_channel
        self._declared: set[str] = set()
        self._used_at = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        return time.monotonic() - self._used_at

    def publish(self, messages: Sequence[OutboxMessage]) -> Answers:
        answers: Answers = [None] * len(messages)
        self._publish(messages, answers)
        for message, answer in zip(messages, answers, strict=True):
            if isinstance(answer, NoRoute):
                self._declared.discard(_queue_of(message))  # somebody may have deleted it
        self._used_at = time.monotonic()
        return answers

    def close(self) -> None:
        _collect(self._connection)

    @abstractmethod
    def _publish(self, messages: Sequence[OutboxMessage], answers: Answers) -> None:
        """Publish *messages*, and write into *answers* which are not stored for certain."""

    def _declare(self, message: OutboxMessage) -> None:
        """Make sure of the queue; a worker does so too, but may come later."""
        name = _queue_of(message)
        if not name or name in self._declared:
            return
        with self._connection.channel() as channel:
            try:
                self._app.amqp.queues[name](channel).declare()
            except self._connection.channel_errors as error:
                # It is there, declared otherwise: that is for its workers to refuse. What was
                # accepted is published, and the broker says whether it is taken.
                logger.warning("the queue %s is not as it is declared here: %s", name, error)
        self._declared.add(name)


class _Confirmed(_Wire):
    """RabbitMQ: a batch is on its way before the first of it is confirmed."""

    def __init__(self, app: App, connection: Any) -> None:
        super().__init__(app, connection)
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._on_ack)
        self._channel.events["basic_nack"].add(self._on_nack)
        self._channel.events["basic_return"].add(self._on_return)
        self._tag = 0
        self._waiting: dict[int, int] = {}
        """The places in the batch of what is not confirmed yet, by delivery tag."""
        self._nacked: list[int] = []
        self._returned: list[str] = []

    def _publish(self, messages: Sequence[OutboxMessage], answers: Answers) -> None:
        ends = time.monotonic() + _CONFIRM_SECONDS
        self._returned.clear()
        self._nacked.clear()
        begun = 0
        try:
            for place, message in enumerate(messages):
                answers[place] = self._send(place, message)
                begun += 1
            while self._waiting:
                self._connection.drain_events(timeout=max(ends - time.monotonic(), 0.001))
        except Exception as error:  # noqa: BLE001 - the channel is of no use any more, whatever it is
            self.is_broken = True
            answer = _of_all(error, messages)
            for place in (*self._waiting.values(), *range(begun, len(messages))):
                answers[place] = answer
        for place in self._nacked:
            answers[place] = Overloaded(f"{_queue_of(messages[place])} takes no more messages")
        for place, message in enumerate(messages):
            if message.id in self._returned:
                answers[place] = NoRoute(f"no queue takes {message.name}")

    def _send(self, place: int, message: OutboxMessage) -> Exception | None:
        """Put *message* on the wire; returns why it can be on none."""
        try:
            prepared, exchange, routing_key = _prepared(self._channel, message)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it is its own
            return error
        self._declare(message)
        self._waiting[self._tag + 1] = place
        try:
            self._channel.basic_publish(
                prepared, exchange=exchange, routing_key=routing_key, mandatory=True
            )
        except (amqp.FrameSyntaxError, struct.error, UnicodeError) as error:
            # Found while it was written down, before any of it left.
            del self._waiting[self._tag + 1]
            return Bury(f"AMQP cannot carry {message.name}: {error}")
        self._tag += 1
        return None

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self._settled(tag, multiple)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self._nacked += self._settled(tag, multiple)

    def _on_return(self, _error: Any, _exchange: str, _routing_key: str, message: Any) -> None:
        self._returned.append(str(message.properties["application_headers"].get("id")))

    def _settled(self, tag: int, multiple: bool) -> list[int]:
        tags = [each for each in self._waiting if each <= tag] if multiple else [tag]
        return [self._waiting.pop(each) for each in tags if each in self._waiting]


class _Piped(_Wire):
    """Redis: a batch is one way there and back, and the answer to each command is its confirm."""

    def _publish(self, messages: Sequence[OutboxMessage], answers: Answers) -> None:
        channel: PipedChannel = self._channel
        ends = [0]
        try:
            for place, message in enumerate(messages):
                answers[place] = self._put(channel, message)
                ends.append(len(channel.kept))
            stored = channel.flush()
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing is known of any of them
            self.is_broken = True
            unknown = _of_all(error, messages)
            answers[:] = [answer or unknown for answer in answers]
            return
        for place, message in enumerate(messages):
            refusals = [each for each in stored[ends[place] : ends[place + 1]] if each is not None]
            if refusals:
                answers[place] = sending.translated(refusals[0], message.name) or refusals[0]

    def _put(self, channel: PipedChannel, message: OutboxMessage) -> Exception | None:
        before = len(channel.kept)
        try:
            prepared, exchange, routing_key = _prepared(channel, message)
            self._declare(message)
            channel.basic_publish(prepared, exchange=exchange, routing_key=routing_key)
        except Exception as error:
            del channel.kept[before:]
            if sending.translated(error, message.name) is not None:
                raise
            return error
        if len(channel.kept) == before:
            return NoRoute(f"no queue takes {message.name}")
        return None


class PipedChannel(Channel):
    """Keeps what is published until it is flushed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.kept: list[tuple[str, bytes]] = []
        super().__init__(*args, **kwargs)

    def flush(self) -> list[Exception | None]:
        """Store what was kept, and say of each whether it is stored or why not."""
        kept, self.kept = self.kept, []
        with self.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
            for queue, envelope in kept:
                pipe.lpush(queue, envelope)
            answers = pipe.execute(raise_on_error=False)
        return [answer if isinstance(answer, Exception) else None for answer in answers]

    @override
    def _put(self, queue: str, message: Any, **_: Any) -> None:
        # All of it was read as JSON: kombu's encoder knows of more, and takes ten times as long.
        self.kept.append((queue, orjson.dumps(message)))


class PipedTransport(Transport):
    """`redis://` of a relay."""

    Channel = PipedChannel


class _OneByOne(_Wire):
    """A broker in memory."""

    def _publish(self, messages: Sequence[OutboxMessage], answers: Answers) -> None:
        for place, message in enumerate(messages):
            try:
                prepared, exchange, routing_key = _prepared(self._channel, message)
                self._declare(message)
                self._channel.basic_publish(prepared, exchange=exchange, routing_key=routing_key)
            except Exception as error:  # noqa: BLE001 - one that cannot be published is told as it is
                answers[place] = error


def _prepared(channel: Any, message: OutboxMessage) -> tuple[Any, str, str]:
    """Return *message* as kombu has it, and where it goes; raises when it cannot be read."""
    if message.headers.get("id") != message.id:
        # No worker could say what became of it.
        raise Bury(f"the headers of {message.name} are not those of a task")
    route = message.route
    properties = dict(route["properties"])
    headers = dict(message.headers)
    headers[SENT_AT] = f"{time.time():.3f}"
    if message.token is not None:
        headers[PRINCIPAL_TOKEN] = message.token
    prepared = channel.prepare_message(
        message.body,
        priority=properties.pop("priority", 0),
        content_type=route["content_type"],
        content_encoding=route["content_encoding"],
        headers=headers,
        properties={**properties, "delivery_mode": _PERSISTENT},
    )
    return prepared, route["exchange"], route["routing_key"]


def _of_all(error: Exception, messages: Sequence[OutboxMessage]) -> Exception:
    """Return what is to be said of each of *messages* when *error* has ended all of them: only
    of one alone is it known that it was the reason.
    """
    known = sending.translated(error, messages[0].name)
    if isinstance(known, NotConnected | Unconfirmed):
        return known
    if len(messages) == 1:
        return known or error
    broken = Disconnected("the connection to the broker broke: some tasks may be stored or not")
    broken.__cause__ = error
    return broken


def _queue_of(message: OutboxMessage) -> str:
    return str(message.route.get("queue") or "")


def _collect(connection: Any) -> None:
    # Taking leave of a broker that hangs would be to wait for its answer.
    with suppress(Exception):
        connection.collect(_GOODBYE_SECONDS)
