"""What a unit of work may send on, without knowing how: a call that is answered, a task that is
done later.

Ways in never import one another. A handler that calls or sends does it through what its service
holds, which only has to have this shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

__all__ = ["Caller", "Kind", "OutboxMessage", "Publisher", "Publishing", "Sender"]

Kind = Literal["task", "event"]
"""Of what leaves through the outbox."""


@runtime_checkable
class Caller(Protocol):
    """Calls a server and waits for its answer; `mainstay.rpc.Calls` is one."""

    def call(
        self,
        queue: str,
        data: Any = None,
        *,
        function: str = "",
        timeout_seconds: float | None = None,
        id: str | None = None,
    ) -> Any:
        """Call the server of *queue* and return its result.

        Args:
            id: What identifies the call; a server does the same one once.
        """

    async def acall(
        self,
        queue: str,
        data: Any = None,
        *,
        function: str = "",
        timeout_seconds: float | None = None,
        id: str | None = None,
    ) -> Any:
        """As :meth:`call`, without stopping the event loop."""


@runtime_checkable
class Sender(Protocol):
    """Hands tasks to the broker; the room of a service's tasks holds one."""

    def send(
        self,
        task: Any,
        /,
        *args: Any,
        task_id: str | None = None,
        session: Any = None,
        **kwargs: Any,
    ) -> str:
        """Send *task* and return its id, once the broker has confirmed it.

        Args:
            task_id: What identifies the task; sending it twice under one id is one task.
            session: The session to whose commit the task belongs: it leaves after that.
        """

    async def asend(
        self,
        task: Any,
        /,
        *args: Any,
        task_id: str | None = None,
        session: Any = None,
        **kwargs: Any,
    ) -> str:
        """As :meth:`send`, without stopping the event loop; with an asyncio session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxMessage:
    """A message that leaves with a commit: it waits in the outbox, and a relay publishes it.

    Args:
        id: The message's own; whoever is given it twice knows by it.
        kind: Whose it is to publish: a :class:`Publisher` has the same.
        name: Which task, which type of event.
        destination: The queue or stream that it goes to.
        key: What it is about, where the messages about one thing are to leave in the order of
            their commits.
        headers: What travels beside the body; JSON.
        route: What its publisher needs to know to put it on the wire; JSON.
        token: The principal's. It is forgotten when the message has left.
    """

    id: str
    kind: Kind
    name: str
    destination: str
    body: bytes
    key: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    route: Mapping[str, Any] = field(default_factory=dict)
    token: str | None = None


class Publisher(Protocol):
    """Puts what leaves the outbox on its wire; used by one thread."""

    kind: ClassVar[Kind]
    keeps_order: ClassVar[bool]
    """Are messages to be published in the order in which they were committed? Then one relay at a
    time does it."""

    def publish(self, messages: Sequence[OutboxMessage]) -> Sequence[Exception | None]:
        """Publish *messages* in their order, and say of each whether it is certainly stored.

        Returns:
            For each ``None``, or why it is not: of the *retry* family when it may be later. Where
            order is kept, nothing is published after one that was not, of the same key.
        """

    def buried(self, session: Any, message: OutboxMessage, error: Exception) -> None:
        """*message* is a dead letter, by the transaction of *session*: tell those who wait."""

    def close(self) -> None:
        """Let the connection go; the next publish opens another."""


@runtime_checkable
class Publishing(Protocol):
    """Has something that leaves through the outbox; the room of a service's tasks does."""

    def outbox_publisher(self) -> Publisher:
        """Return what publishes it, for a relay."""
