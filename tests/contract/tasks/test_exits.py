"""However a task ends, its status, its step, its dead letter and its result say so.

The table is that of docs/reference/tasks.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from celery.exceptions import NotRegistered, Reject, TaskRevokedError, WorkerLostError
from celery.result import AsyncResult
from kombu.exceptions import EncodeError

from mainstay.context import new_id
from mainstay.errors import Bury, Refuse
from mainstay.tasks.celery import App
from mainstay.tasks.status import State
from mainstay.tasks.workflow import StepState
from mainstay.testing import eventually
from tests.contract.tasks.conftest import COMBINATIONS
from tests.contract.tasks.rooms import ON_DATABASES, CeleryRoom, worker_of
from tests.waiting import PATIENCE_SECONDS


@dataclass(frozen=True)
class Exit:
    """What is seen of one way to end.

    Args:
        state: Of its status.
        letter: The reason of its dead letter; ``None`` where there is none.
        result: What waiting for its result gives, or the kind of error that it raises.
        outcome: In the metric and in the log line of the last try; ``None`` where there was none.
    """

    state: State
    letter: str | None = None
    result: Any = None
    outcome: str | None = "done"
    task: str = "ends"
    options: Mapping[str, Any] = field(default_factory=dict)


DONE = State.SUCCESS
EXITS = {
    "returning": Exit(DONE, result="returning"),
    "passing": Exit(DONE, result="passing"),
    "failing": Exit(State.FAILURE, "failed:ValueError", ValueError, "failed"),
    "refusing": Exit(State.FAILURE, "refused:Refuse", Refuse, "refused"),
    "burying": Exit(State.FAILURE, "failed:Bury", Bury, "failed"),
    "ignoring": Exit(State.REVOKED),
    "rejecting": Exit(State.FAILURE, "refused:Reject", Reject, "refused"),
    "requeueing": Exit(DONE, result="requeueing"),
    "retrying": Exit(DONE, result="retrying"),
    "exiting": Exit(DONE, result="exiting"),
    "hungry": Exit(State.FAILURE, "failed:MemoryError", MemoryError, "failed"),
    "killed": Exit(DONE, result="killed"),
    "killed for good": Exit(State.FAILURE, "worker-lost", WorkerLostError, None, task="ends_dead"),
    "too slow": Exit(
        State.FAILURE,
        "failed:SoftTimeLimitExceeded",
        SoftTimeLimitExceeded,
        "expired",
        task="ends_limited",
    ),
    "deaf": Exit(State.FAILURE, "time-limit", TimeLimitExceeded, None, task="ends_limited"),
    "unencodable": Exit(State.FAILURE, "failed:EncodeError", EncodeError, "failed"),
    "unready": Exit(State.FAILURE, "failed:ValueError", ValueError, None, task="ends_unready"),
    "ignoring at its start": Exit(State.REVOKED, outcome=None, task="ends_unready"),
    "expired": Exit(State.FAILURE, "expired", TaskRevokedError, None, options={"expires": -5}),
    "unknown": Exit(State.FAILURE, "unknown-task", NotRegistered, None, task="no_such_task"),
}


@pytest.fixture(params=COMBINATIONS)
def place(request: pytest.FixtureRequest, shared_with_results: Any) -> tuple[CeleryRoom, App]:
    """A room, and an application that reads its results, where there are any."""
    made: tuple[CeleryRoom, App] = shared_with_results(request.param)
    return made


@pytest.mark.parametrize("how", list(EXITS))
def test_every_word_on_a_task_says_how_it_ended(place: tuple[CeleryRoom, App], how: str) -> None:
    room, app = place
    wanted, id = EXITS[how], new_id()
    if how == "unencodable" and not app.conf.result_backend:
        wanted = Exit(DONE)  # nobody is to be given it
    sent = app.send_task(wanted.task, (how, id), task_id=id, ignore_result=False, **wanted.options)
    status = room.ended(id)
    assert status.state is wanted.state, status
    if wanted.letter is None:
        assert not [letter for letter in room.dead() if letter.id == id]
    else:
        assert room.letter(id).reason == wanted.letter
    if app.conf.result_backend and wanted.state is not State.REVOKED:
        assert result_of(sent) == wanted.result
    if wanted.outcome is not None:
        tries = worker_of(room).tries  # a line is written when others have seen the end
        assert eventually(lambda: [one for one in tries(id) if one["outcome"] == wanted.outcome])


@pytest.mark.parametrize("where", ON_DATABASES)
@pytest.mark.parametrize("how", list(EXITS))
def test_every_end_of_a_step_comes_to_its_workflow(
    shared_with_results: Any, where: str, how: str
) -> None:
    # Which end a step has comes from its status, whatever keeps its result.
    _room, app = shared_with_results(f"{where}, none")
    wanted = EXITS[how]
    step = app.signature(wanted.task, args=(how, new_id())).set(**wanted.options)
    id = app.workflows.start(step | app.signature("listed"), name=how)

    def ended() -> Any:
        found = app.workflows.get(id)
        assert found is not None
        return found if found.state != "running" else None

    workflow = eventually(ended, timeout_seconds=PATIENCE_SECONDS)
    assert workflow is not None
    first, second = workflow.steps
    assert first.state == str(wanted.state)
    assert second.state is (StepState.SUCCESS if wanted.state is DONE else StepState.SKIPPED)


def result_of(sent: AsyncResult) -> Any:
    """Return what waiting for a result gives: a value, or the kind of error."""
    try:
        return sent.get(timeout=PATIENCE_SECONDS)
    except Exception as error:  # noqa: BLE001 - whichever it is
        return type(error)
