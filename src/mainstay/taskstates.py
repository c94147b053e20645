"""Where is a task in its life?"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["ANY_EPOCH", "State"]

ANY_EPOCH = 2_000_000_000
"""Higher than any number of deliveries: for a word on a task that no fence holds up."""


class State(StrEnum):
    """Where a task is; an id that was never issued has no state at all."""

    WAITING = "waiting"
    STARTED = "started"
    PROGRESS = "progress"
    RETRYING = "retrying"
    SUCCESS = "success"
    FAILURE = "failure"
    REVOKED = "revoked"
    LOST = "lost"
    """No queue and no worker has it any more: it can be sent again."""

    @property
    def is_final(self) -> bool:
        """Will it stay so, unless somebody retries the task by hand?"""
        return self in _FINAL


_FINAL = frozenset({State.SUCCESS, State.FAILURE, State.REVOKED})
