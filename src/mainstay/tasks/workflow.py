"""What has become of a workflow: of each of its steps, and so of all of it?

A step is a task, and its state is what its task's status says. Two states are of steps alone: one
whose turn has not come is *pending*, and one whose turn cannot come any more, because a step that
it waits for has failed, is *skipped*; until that one is done again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from mainstay.taskstates import State

__all__ = ["Step", "StepState", "Workflow", "WorkflowState", "state_of", "states_of"]


class StepState(StrEnum):
    """Where a step is."""

    PENDING = "pending"
    WAITING = "waiting"
    STARTED = "started"
    RETRYING = "retrying"
    LOST = "lost"
    SUCCESS = "success"
    FAILURE = "failure"
    REVOKED = "revoked"
    SKIPPED = "skipped"


class WorkflowState(StrEnum):
    """Where a workflow is; it has failed when nothing more can be done of it."""

    RUNNING = "running"
    SUCCESS = "success"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a workflow.

    Args:
        name: The name of its task.
        task_id: The id of its task, whose status has more.
        attempts: Tries begun so far, those before it was done again included.
        error: ``{"type", "detail"}`` of what it failed with.
    """

    name: str
    task_id: str
    state: StepState
    attempts: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON shows it."""
        return {
            "name": self.name,
            "task_id": self.task_id,
            "status": str(self.state),
            "attempts": self.attempts,
            "started_at": _moment(self.started_at),
            "finished_at": _moment(self.finished_at),
            "error": None if self.error is None else dict(self.error),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """What is known of one workflow.

    Args:
        name: What it was called when it was started.
        steps: In the order in which they were written.
        correlation_id: The id of the outside request that caused it.
    """

    id: str
    name: str
    state: WorkflowState
    steps: Sequence[Step]
    correlation_id: str = ""
    created_at: datetime

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON shows it."""
        return {
            "workflow_id": self.id,
            "name": self.name,
            "status": str(self.state),
            "correlation_id": self.correlation_id,
            "created_at": _moment(self.created_at),
            "steps": [step.as_dict() for step in self.steps],
        }


def states_of(steps: Iterable[tuple[str, Sequence[str], State | None]]) -> list[StepState]:
    """Return where each of *steps* is.

    Args:
        steps: Of each its task's id, the ids that it waits for and what its task's status says,
            ``None`` for one that was never sent; each after those that it waits for.
    """
    states: dict[str, StepState] = {}
    hopeless = {StepState.FAILURE, StepState.REVOKED, StepState.SKIPPED}
    for task_id, needs, state in steps:
        if state is not None:
            known = State.STARTED if state is State.PROGRESS else state
            states[task_id] = StepState(known.value)
        elif any(states[id] in hopeless for id in needs):
            states[task_id] = StepState.SKIPPED
        else:
            states[task_id] = StepState.PENDING
    return list(states.values())


_RUNNING = {StepState.WAITING, StepState.STARTED, StepState.RETRYING, StepState.LOST}


def state_of(steps: Iterable[StepState]) -> WorkflowState:
    """Return where a workflow is whose steps are there."""
    found = set(steps)
    if found & _RUNNING:
        return WorkflowState.RUNNING
    if found <= {StepState.SUCCESS}:
        return WorkflowState.SUCCESS
    return WorkflowState.FAILURE


def _moment(value: datetime | None) -> str | None:
    if value is None:
        return None
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
