"""What has become of a task, for those who ask later?

Each task that is kept track of has one status, which only moves forward: a report that arrives
late, from a worker that was given up or a message that came back, changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mainstay.tasks.values import shown
from mainstay.taskstates import State

__all__ = ["State", "StatusStore", "TaskStatus", "is_newer"]


# Within one attempt; a later attempt comes after all of an earlier one.
_ORDER = {
    State.LOST: 0,
    State.WAITING: 0,
    State.STARTED: 1,
    State.PROGRESS: 2,
    State.RETRYING: 3,
    State.REVOKED: 4,
    State.FAILURE: 4,
    State.SUCCESS: 5,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatus:
    """What is known of one task.

    Args:
        id: The task's id.
        name: The task's name.
        state: Where it is.
        queue: Where it was sent.
        attempts: Tries begun so far, this one included, since it was last sent; one that comes
            back, because its worker was killed, is still the same one.
        epoch: Which delivery tells it, for tasks that are fenced; else 0.
        meta: What the task tells of its progress: ``current``, ``total`` and whatever it adds.
        result: What it returned, once it is done: JSON, dates, decimals, UUIDs and bytes as they
            were; of what JSON can only show, such as a dataclass, what it shows.
        error: ``{"type", "detail"}`` of what it failed with; of one that is done, why its result
            could not be kept.
        worker: Who began the newest try of it.
        correlation_id: The id of the outside request that caused it.
        updated_at: Seconds since the epoch.
    """

    id: str
    name: str = ""
    state: State = State.WAITING
    queue: str = ""
    attempts: int = 0
    epoch: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)
    result: Any = None
    error: Mapping[str, str] | None = None
    worker: str = ""
    correlation_id: str = ""
    updated_at: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON shows it."""
        return {
            "id": self.id,
            "name": self.name,
            "state": str(self.state),
            "queue": self.queue,
            "attempts": self.attempts,
            "meta": dict(self.meta),
            "result": shown(self.result),
            "error": None if self.error is None else dict(self.error),
            "worker": self.worker,
            "correlation_id": self.correlation_id,
            "updated_at": self.updated_at,
        }


def is_newer(new: TaskStatus, old: TaskStatus) -> bool:
    """May *new* take the place of *old*?

    Only what comes later in the life of a task may. A life ends with success; what has failed
    lives again when it is sent, or put back and begun, anew; what was revoked only when it is sent
    anew, because its message may still be on its way. A delivery that was taken over says nothing
    any more.
    """
    if old.state.is_final:
        again = {State.FAILURE: (State.WAITING, State.STARTED), State.REVOKED: (State.WAITING,)}
        return new.state in again.get(old.state, ())
    if State.LOST in (old.state, new.state):
        return new.state is not old.state  # any word of a worker shows that it is not lost
    if new.epoch != old.epoch:
        return new.epoch > old.epoch
    if new.state.is_final:
        return True
    if new.attempts != old.attempts:
        return new.attempts > old.attempts
    if new.state is old.state is State.PROGRESS:
        return True
    return _ORDER[new.state] > _ORDER[old.state]


class StatusStore(Protocol):
    """Where statuses are kept."""

    def record(self, status: TaskStatus, *, session: Any = None) -> bool:
        """Keep *status* unless what is there is further on (:func:`is_newer`); says whether it was
        kept.

        What *status* leaves empty (name, queue, worker, correlation id, meta) stays as it was.

        Args:
            session: The unit of work whose transaction it belongs to, where the store is in that
                database; else it is kept at once.
        """

    def find(self, id: str) -> TaskStatus | None:
        """Return the status of the task, or ``None`` for an id that was never issued."""

    def newest(self, *, state: State | None = None, limit: int = 50) -> Sequence[TaskStatus]:
        """Return the newest tasks, the newest first."""
