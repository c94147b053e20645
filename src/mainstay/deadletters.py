"""Work that could not be done: kept with its reason until somebody retries or discards it.

The dead letters of anything called ``<name>`` are in ``<name>_dlq``: a queue on RabbitMQ, a
stream on Redis. Both hold the message as it came, so that a retry puts back just that.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import orjson

from mainstay.errors import Bury, MainstayError, RemoteFailure
from mainstay.texts import storable

__all__ = [
    "SUFFIX",
    "Cause",
    "DeadLetter",
    "DeadLetters",
    "Kind",
    "by_cause",
    "dead_letters_of",
    "reason_of",
    "unnamed",
]

SUFFIX = "_dlq"
Kind = Literal["task", "call", "event"]


def dead_letters_of(queue: str) -> str:
    """Return the name of the queue or stream that holds the dead letters of *queue*."""
    return queue + SUFFIX


def unnamed(message: bytes) -> str:
    """Return an id for a message that has none of its own: the same each time one looks."""
    return f"unnamed-{hashlib.sha256(message).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message that could not be done.

    Args:
        id: The message's own id: a task id, a call id.
        kind: Which way in it came.
        queue: Where it was to be done.
        name: Which task or function; empty when it could not be read.
        reason: Why, out of a bounded set: ``failed:ValueError``, ``decode:…``, ``unknown-task``,
            ``delivery-limit``, ``expired``, ``refused:…``.
        detail: What the error said; without internals.
        died_at: Seconds since the epoch.
        headers: The message's headers, as text.
        body: The message's body as it came.
        envelope: The whole message in its transport's own form, where the transport needs it to
            put the message back; empty otherwise.
        position: Where the store keeps it; set by the store.
    """

    id: str
    kind: Kind
    queue: str
    reason: str
    name: str = ""
    detail: str = ""
    died_at: float = field(default_factory=time.time)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    envelope: bytes = b""
    position: str = ""

    def __post_init__(self) -> None:
        # Half a surrogate pair can be in any text of Python's, a file's name for one, and in no
        # store: a letter that could not be kept for that would be tried for ever.
        for name in ("id", "queue", "reason", "name", "detail"):
            object.__setattr__(self, name, storable(getattr(self, name)))
        headers = {storable(name): storable(value) for name, value in self.headers.items()}
        object.__setattr__(self, "headers", headers)

    def to_fields(self) -> dict[str, bytes | str]:
        """Return the fields of a Redis stream entry."""
        return {
            "id": self.id,
            "kind": self.kind,
            "queue": self.queue,
            "reason": self.reason,
            "name": self.name,
            "detail": self.detail,
            "died_at": f"{self.died_at:.6f}",
            "headers": orjson.dumps(dict(self.headers)),
            "body": self.body,
            "envelope": self.envelope,
        }

    @classmethod
    def from_fields(cls, fields: Mapping[bytes, bytes], *, queue: str, position: str) -> DeadLetter:
        """Read the fields of a Redis stream entry; what is missing or broken stays empty."""

        def text(name: bytes) -> str:
            return fields.get(name, b"").decode(errors="replace")

        try:
            headers = {str(k): str(v) for k, v in orjson.loads(fields[b"headers"]).items()}
        except (AttributeError, KeyError, orjson.JSONDecodeError):
            headers = {}
        try:
            died_at = float(text(b"died_at"))
        except ValueError:
            died_at = 0.0
        kind = text(b"kind")
        return cls(
            id=text(b"id") or unnamed(fields.get(b"envelope", b"") + fields.get(b"body", b"")),
            kind=kind if kind in ("task", "call", "event") else "task",  # type: ignore[arg-type] # checked beside it
            queue=text(b"queue") or queue,
            reason=text(b"reason") or "unknown",
            name=text(b"name"),
            detail=text(b"detail"),
            died_at=died_at,
            headers=headers,
            body=fields.get(b"body", b""),
            envelope=fields.get(b"envelope", b""),
            position=position,
        )


@dataclass(frozen=True, slots=True)
class Cause:
    """Dead letters that died of the same thing."""

    queue: str
    kind: Kind
    name: str
    reason: str
    count: int
    first_at: float
    last_at: float
    example_id: str


def by_cause(letters: Iterable[DeadLetter]) -> list[Cause]:
    """Group *letters* by queue, name and reason, the most frequent first."""
    groups: dict[tuple[str, Kind, str, str], list[DeadLetter]] = {}
    for letter in letters:
        cause = (letter.queue, letter.kind, letter.name, letter.reason)
        groups.setdefault(cause, []).append(letter)
    causes = [
        Cause(
            *cause,
            count=len(group),
            first_at=min(letter.died_at for letter in group),
            last_at=max(letter.died_at for letter in group),
            example_id=group[0].id,
        )
        for cause, group in groups.items()
    ]
    return sorted(causes, key=lambda cause: -cause.count)


def reason_of(error: BaseException) -> str:
    """Say why work that raised *error* is dead: the kind of the error, out of a bounded set."""
    if isinstance(error, RemoteFailure):
        return f"failed:{error.type}"
    if isinstance(error, MainstayError) and not isinstance(error, Bury):
        return f"refused:{type(error).__name__}"
    return f"failed:{type(error).__name__}"


class DeadLetters(Protocol):
    """Where the dead letters of one broker can be seen, put back and thrown away."""

    def queues(self) -> list[str]:
        """Return the names of the queues that have dead letters."""

    def letters(self, queue: str) -> Iterator[DeadLetter]:
        """Go through the dead letters of *queue*, oldest first, and leave them there."""

    def retry(self, queue: str, matching: Callable[[DeadLetter], bool]) -> int:
        """Put the dead letters of *queue* that match back where they were to be done.

        Each is taken out of here only once it is stored there, so a crash in between leaves it in
        both places, never in none. Returns how many were put back.
        """

    def discard(self, queue: str, matching: Callable[[DeadLetter], bool]) -> int:
        """Throw the dead letters of *queue* that match away for good; returns how many."""
