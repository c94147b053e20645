from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mainstay.tasks.workflow import (
    Step,
    StepState,
    Workflow,
    WorkflowState,
    state_of,
    states_of,
)
from mainstay.taskstates import State

S = StepState


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((State.WAITING, None, None), ["waiting", "pending", "pending"]),
        ((State.PROGRESS, None, None), ["started", "pending", "pending"]),
        ((State.RETRYING, None, None), ["retrying", "pending", "pending"]),
        ((State.LOST, None, None), ["lost", "pending", "pending"]),
        ((State.FAILURE, None, None), ["failure", "skipped", "skipped"]),
        ((State.SUCCESS, State.REVOKED, None), ["success", "revoked", "skipped"]),
        ((State.SUCCESS, State.SUCCESS, State.SUCCESS), ["success", "success", "success"]),
    ],
)
def test_a_step_is_skipped_when_what_it_waits_for_has_failed(
    states: tuple[State | None, ...], expected: list[str]
) -> None:
    needs: tuple[list[str], ...] = ([], ["a"], ["b"])
    assert states_of(zip("abc", needs, states, strict=True)) == expected


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([S.SUCCESS, S.SUCCESS], WorkflowState.SUCCESS),
        ([S.SUCCESS, S.WAITING, S.PENDING], WorkflowState.RUNNING),
        ([S.FAILURE, S.RETRYING, S.SKIPPED], WorkflowState.RUNNING),
        ([S.FAILURE, S.SUCCESS, S.SKIPPED], WorkflowState.FAILURE),
        ([S.SUCCESS, S.REVOKED], WorkflowState.FAILURE),
        ([S.SUCCESS, S.LOST, S.PENDING], WorkflowState.RUNNING),
    ],
)
def test_a_workflow_has_failed_when_nothing_more_can_be_done(
    steps: list[StepState], expected: WorkflowState
) -> None:
    assert state_of(steps) is expected


def test_json_has_moments_in_utc_and_what_is_not_known_as_null() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    step = Step(name="render", task_id="t", state=S.STARTED, attempts=1, started_at=moment)
    workflow = Workflow(
        id="w", name="contract", state=WorkflowState.RUNNING, steps=[step], created_at=moment
    )
    assert workflow.as_dict() == {
        "workflow_id": "w",
        "name": "contract",
        "status": "running",
        "correlation_id": "",
        "created_at": "2026-01-02T03:04:05.000000Z",
        "steps": [
            {
                "name": "render",
                "task_id": "t",
                "status": "started",
                "attempts": 1,
                "started_at": "2026-01-02T03:04:05.000000Z",
                "finished_at": None,
                "error": None,
            }
        ],
    }
