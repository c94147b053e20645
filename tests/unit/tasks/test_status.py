from __future__ import annotations

import pytest

from mainstay.tasks.status import State, TaskStatus, is_newer


def at(state: State, attempts: int = 1) -> TaskStatus:
    return TaskStatus(id="x", state=state, attempts=attempts)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (at(State.WAITING, 0), at(State.STARTED)),
        (at(State.STARTED), at(State.PROGRESS)),
        (at(State.PROGRESS), at(State.PROGRESS)),
        (at(State.STARTED), at(State.RETRYING)),
        (at(State.RETRYING), at(State.STARTED, 2)),
        (at(State.STARTED, 2), at(State.SUCCESS)),
        (at(State.WAITING, 0), at(State.REVOKED)),
        (at(State.FAILURE), at(State.WAITING)),
        (at(State.FAILURE), at(State.STARTED)),
        (at(State.REVOKED), at(State.WAITING)),
        (at(State.PROGRESS), at(State.LOST, 0)),
        (at(State.LOST), at(State.WAITING, 0)),
        (at(State.LOST, 2), at(State.STARTED)),
        (at(State.LOST), at(State.SUCCESS)),
    ],
)
def test_a_life_goes_on(old: TaskStatus, new: TaskStatus) -> None:
    assert is_newer(new, old)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (at(State.STARTED), at(State.WAITING, 0)),
        (at(State.STARTED), at(State.STARTED)),
        (at(State.PROGRESS), at(State.STARTED)),
        (at(State.STARTED, 2), at(State.RETRYING, 1)),
        (at(State.SUCCESS), at(State.STARTED, 5)),
        (at(State.SUCCESS), at(State.FAILURE)),
        (at(State.SUCCESS), at(State.WAITING)),
        (at(State.REVOKED), at(State.STARTED)),
        (at(State.FAILURE), at(State.SUCCESS)),
        (at(State.SUCCESS), at(State.LOST)),
    ],
)
def test_a_life_never_goes_back(old: TaskStatus, new: TaskStatus) -> None:
    assert not is_newer(new, old)


def test_a_delivery_that_was_taken_over_says_nothing_any_more() -> None:
    mine = TaskStatus(id="1", state=State.STARTED, attempts=1, epoch=2)
    for state in (State.PROGRESS, State.FAILURE, State.SUCCESS):
        assert not is_newer(TaskStatus(id="1", state=state, attempts=1, epoch=1), mine)
        assert is_newer(TaskStatus(id="1", state=state, attempts=1, epoch=2), mine)
