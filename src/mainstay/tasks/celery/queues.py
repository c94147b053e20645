"""Which queues are there, and what becomes of what they cannot keep?

A :class:`TaskQueue` says it once; from it come the exchange, the routing key and the dead-letter
queue, as RabbitMQ or Redis is to have them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from celery.app.amqp import Queues
from kombu import Exchange, Queue
from typing_extensions import override

from mainstay.deadletters import dead_letters_of
from mainstay.errors import Misconfigured
from mainstay.resources.amqp.layout import DEAD_LETTERS

__all__ = ["DELIVERY_LIMIT", "Declared", "DeclaredQueues", "TaskQueue", "all_problems"]

DELIVERY_LIMIT = 5
_DLX_SUFFIX = "_dlx"
# The guard buries with a reason what came back too often; the broker only where no guard is.
_BROKER_MARGIN = 3
_BROKER_CONSUMER_TIMEOUT_SECONDS = 1_800.0
_DLQ_SUFFIX = dead_letters_of("")
_NAME_CHARACTERS = 200  # RabbitMQ takes 255 bytes, and the suffixes of what goes with it
_NAME = re.compile(rf"[^\s\x00-\x1f\x7f]{{1,{_NAME_CHARACTERS}}}")
_BOUNDS = (
    ("delivery_limit", 1, 1_000_000),
    ("ttl_seconds", 0.001, 31_536_000),
    ("max_length", 1, 2**31 - 1),
    ("max_priority", 1, 255),
    ("consumer_timeout_seconds", 1, 31_536_000),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQueue:
    """One queue of tasks.

    Args:
        name: The queue's name; its dead letters are in ``<name>_dlq``.
        exchange: The topic exchange before it; its own by default.
        routing_key: The queue's name by default.
        kind: ``quorum``; ``classic`` is for what quorum queues cannot do, and needs a reason.
        classic_because: That reason, for the next reader; a classic queue forgets acknowledgements
            when its broker crashes.
        delivery_limit: After so many unfinished deliveries a message is a dead letter.
        ttl_seconds: A message that waited so long is a dead letter (``expired``).
        max_length: With so many messages waiting, publishing answers `Overloaded`.
        max_priority: For classic queues: priorities 0 to this, which ``priority=`` asks for.
        consumer_timeout_seconds: RabbitMQ's ``consumer_timeout``: tasks must end before it.
    """

    name: str
    exchange: str = ""
    routing_key: str = ""
    kind: Literal["quorum", "classic"] = "quorum"
    classic_because: str = ""
    delivery_limit: int = DELIVERY_LIMIT
    ttl_seconds: float | None = None
    max_length: int | None = None
    max_priority: int | None = None
    consumer_timeout_seconds: float = _BROKER_CONSUMER_TIMEOUT_SECONDS

    @property
    def dead_letter_exchange(self) -> str:
        return self.name + _DLX_SUFFIX

    @property
    def dead_letter_queue(self) -> str:
        return dead_letters_of(self.name)

    def problems(self) -> list[str]:
        """Say what is wrong with it, each with what to change."""
        found = []
        if not _NAME.fullmatch(self.name) or self.name.startswith("amq."):
            found.append(
                f"its name must be 1 to {_NAME_CHARACTERS} printable characters, without spaces, "
                "and not begin with 'amq.', which is the broker's"
            )
        if self.name.endswith(_DLQ_SUFFIX):
            found.append(f"a name that ends in {_DLQ_SUFFIX} is of dead letters: choose another")
        if any(word in ("*", "#") for word in self.routing_key.split(".")):
            found.append("routing_key is what tasks are sent with: leave wildcards out")
        if self.kind not in ("quorum", "classic"):
            found.append(f"kind {self.kind!r} is unknown: quorum or classic")
        if self.kind == "classic" and not self.classic_because.strip():
            found.append(
                "it is classic, which forgets acknowledgements when its broker crashes: make it "
                "quorum, or say why not in classic_because"
            )
        if self.kind == "classic" and self.max_length is None:
            found.append("it is classic and takes messages without end: set max_length")
        if self.kind == "quorum" and self.max_priority is not None:
            found.append(
                "quorum queues have no priorities: leave max_priority out, or make it classic and "
                "say why in classic_because"
            )
        for name, least, most in _BOUNDS:
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                found.append(f"{name} must be {least} to {most}, not {value}")
        return [f"queue {self.name!r}: {problem}" for problem in found]

    def unknown_to(self, transport: str) -> list[str]:
        """Say what of it a broker that is no RabbitMQ does not do, each with what to change."""
        if transport == "amqp":
            return []
        return [
            f"queue {self.name!r}: {name} is for RabbitMQ, and {transport} would not heed it: "
            "leave it out"
            for name in ("ttl_seconds", "max_length", "max_priority")
            if getattr(self, name) is not None
        ]

    def declared(self, transport: str) -> Queue:
        """Return it as kombu declares it on *transport* (``amqp``, ``redis`` or ``memory``)."""
        if problems := self.problems():
            raise Misconfigured("; ".join(problems))
        if transport != "amqp":
            return Queue(self.name, Exchange(self.name, type="direct"), routing_key=self.name)
        dead_exchange = Exchange(self.dead_letter_exchange, type="topic")
        dead = Queue(
            self.dead_letter_queue,
            dead_exchange,
            routing_key=self.dead_letter_queue,
            queue_arguments=dict(DEAD_LETTERS),
        )
        return Declared(
            self.name,
            Exchange(self.exchange or self.name, type="topic"),
            routing_key=self.routing_key or self.name,
            queue_arguments=self._arguments(),
            dead=dead,
        )

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "x-queue-type": self.kind,
            "x-dead-letter-exchange": self.dead_letter_exchange,
            "x-dead-letter-routing-key": self.dead_letter_queue,
            "x-overflow": "reject-publish",
        }
        if self.kind == "quorum":
            # Without it RabbitMQ itself may lose what it dead-letters.
            arguments["x-dead-letter-strategy"] = "at-least-once"
            arguments["x-delivery-limit"] = self.delivery_limit + _BROKER_MARGIN
        if self.ttl_seconds is not None:
            arguments["x-message-ttl"] = int(self.ttl_seconds * 1000)
        if self.max_length is not None:
            arguments["x-max-length"] = self.max_length
        if self.max_priority is not None:
            arguments["x-max-priority"] = self.max_priority
        return arguments


def all_problems(queues: Sequence[TaskQueue]) -> list[str]:
    """Say what is wrong with *queues*, each and together."""
    found = [problem for queue in queues for problem in queue.problems()]
    found += (
        f"queue {name!r} is declared twice: leave one of them out"
        for name, times in Counter(queue.name for queue in queues).items()
        if times > 1
    )
    ways: dict[tuple[str, str], str] = {}
    for queue in queues:
        way = (queue.exchange or queue.name, queue.routing_key or queue.name)
        other = ways.setdefault(way, queue.name)
        if other != queue.name:
            found.append(
                f"queues {other!r} and {queue.name!r} have the same exchange and routing_key: each "
                "task would be in both, and done twice; give one of them another"
            )
    return found


class Declared(Queue):
    """A queue that is never declared without the queue of its dead letters."""

    attrs: Any = (*Queue.attrs, ("dead", None))

    def declare(self, nowait: bool = False, channel: Any = None) -> str:
        dead = getattr(self, "dead", None)
        if dead is not None:
            dead(channel or self.channel).declare(nowait=nowait)
        name: str = super().declare(nowait=nowait, channel=channel)
        return name


class DeclaredQueues(Queues):
    """Celery's table of queues; a queue that nobody declared is made as the others are."""

    transport = "amqp"

    @override
    def new_missing(self, name: str) -> Queue:
        return TaskQueue(name=name).declared(self.transport)
