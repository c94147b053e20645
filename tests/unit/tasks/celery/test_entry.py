from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery.app.task import Context
from celery.exceptions import Ignore

from mainstay.errors import AlreadyDone, Bury
from mainstay.tasks.celery.entry import TaskEntry


def do_again(result: tuple[bool, Any], *, work: str = "task:1", **request: Any) -> Any:
    """Do a task whose effect is there already, and of whose result *result* is known."""

    def run(**_: object) -> None:
        raise AlreadyDone("it was done before", work=work)

    reports = SimpleNamespace(
        started=lambda *_: True,
        result=lambda _task: result,
        failed=lambda *_: None,
    )
    task: Any = SimpleNamespace(
        name="charge",
        app=SimpleNamespace(service=None, reports=reports),
        request=Context(id="1", **request),
        takes_session=False,
        once=True,
        fenced=False,
        backoff=None,
        run=run,
    )
    step = TaskEntry(task, (), {}).handle()
    assert step.sync is not None
    return step.sync()


def test_a_task_that_was_done_before_returns_what_it_returned_then() -> None:
    assert do_again((True, 42)) == 42
    assert do_again((True, None), chain=[{}]) is None


def test_without_its_result_it_is_done_when_nothing_comes_after_it() -> None:
    with pytest.raises(Ignore):
        do_again((False, None))


@pytest.mark.parametrize("after", ["chain", "callbacks", "chord"])
def test_without_its_result_what_comes_after_it_is_not_lost_in_silence(after: str) -> None:
    with pytest.raises(Bury, match="track_status"):
        do_again((False, None), work="task:1", **{after: [{}]})


def test_what_a_call_was_answered_is_not_taken_for_this_task() -> None:
    with pytest.raises(AlreadyDone):
        do_again((True, 42), work="")
