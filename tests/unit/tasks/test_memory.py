from __future__ import annotations

import pytest

from mainstay.errors import Invalid
from mainstay.tasks.memory import MemoryTasks
from mainstay.tasks.status import State


def test_nothing_runs_before_it_is_told_to() -> None:
    room = MemoryTasks()
    done: list[int] = []
    room.task(done.append, name="note")
    id = room.send("note", 1)
    status = room.status(id)
    assert status is not None
    assert (status.state, done) == (State.WAITING, [])
    assert room.run() == 1
    assert done == [1]


def test_a_pause_is_over_when_the_clock_says_so() -> None:
    now = [100.0]
    room = MemoryTasks(clock=lambda: now[0])
    tries: list[int] = []

    @room.task
    def flaky() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError
        return "ok"

    id = room.send("flaky")
    room.run()
    status = room.status(id)
    assert status is not None
    assert status.state is State.RETRYING
    assert room.run() == 0
    assert room.next_due is not None
    now[0] = room.next_due
    assert room.run() == 1
    status = room.status(id)
    assert status is not None
    assert (status.result, status.attempts) == ("ok", 2)


def test_arguments_that_json_cannot_hold_are_refused() -> None:
    room = MemoryTasks()
    room.task(print)
    with pytest.raises(Invalid, match="JSON cannot hold"):
        room.send("print", object())
