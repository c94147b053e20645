from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery.app.task import Context
from celery.exceptions import Reject

from mainstay.config import Settings
from mainstay.service import Service
from mainstay.tasks.celery import create_celery_app, reports
from mainstay.tasks.memory import MemoryStatuses
from mainstay.tasks.status import State, TaskStatus


class Blinking(MemoryStatuses):
    """A store that does not answer a few times."""

    def __init__(self, failures: int, error: Exception) -> None:
        super().__init__()
        self.failures = failures
        self.error = error
        self.asked = 0

    def record(self, status: TaskStatus, *, session: object = None) -> bool:
        self.asked += 1
        if self.asked <= self.failures:
            raise self.error
        return super().record(status, session=session)


def told_to(store: Blinking, monkeypatch: pytest.MonkeyPatch) -> reports.Reports:
    monkeypatch.setattr(reports, "store_of", lambda *_, **__: store)
    service = Service(Settings(env="test", celery_broker_url="memory://"))
    app = create_celery_app(service)
    app.worker.is_child = True
    return app.reports


def task() -> Any:
    return SimpleNamespace(
        name="add",
        track_status=True,
        request=Context({"id": "1", "retries": 0, "is_eager": False}),
    )


def test_the_last_word_on_a_task_waits_for_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mainstay.tasks.celery.results.time.sleep", lambda _seconds: None)
    store = Blinking(3, ConnectionResetError())
    told_to(store, monkeypatch).succeeded(task(), 1, 42)
    status = store.find("1")
    assert status is not None
    assert (status.state, status.result) == (State.SUCCESS, 42)

    store = Blinking(3, ConnectionResetError())
    told_to(store, monkeypatch).failed(task(), 1, ValueError("no"))
    status = store.find("1")
    assert status is not None
    assert status.state is State.FAILURE


def test_what_no_store_can_hold_is_not_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Blinking(100, ValueError())
    told_to(store, monkeypatch).succeeded(task(), 1, 42)
    assert store.asked == 1


def test_progress_is_not_told_to_a_store_that_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("mainstay.tasks.celery.reports.time.monotonic", lambda: clock[0])
    store = Blinking(2, ConnectionResetError())
    telling = told_to(store, monkeypatch)
    for current in range(100):
        telling.progress(task(), {"current": current})
    assert store.asked == 1
    clock[0] += 6
    telling.progress(task(), {"current": 100})
    assert len(caplog.records) == 1  # of all that were not told
    clock[0] += 6
    telling.progress(task(), {"current": 101})
    status = store.find("1")
    assert status is not None
    assert status.meta == {"current": 101}


def test_a_task_hears_of_its_time_limit_while_it_tells_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    telling = told_to(Blinking(1, SoftTimeLimitExceeded()), monkeypatch)
    with pytest.raises(SoftTimeLimitExceeded):
        telling.progress(task(), {"current": 1})
    # Once the work is over, its message goes back: whoever has it next tells of its end.
    with pytest.raises(Reject) as back:
        told_to(Blinking(1, SoftTimeLimitExceeded()), monkeypatch).succeeded(task(), 1, 42)
    assert back.value.requeue


def test_the_first_dead_task_of_a_worker_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Blinking(0, ValueError())
    keeping = told_to(store, monkeypatch)
    keeping.died("1", "crash:SIGKILL", "the process was killed", name="add", queue="q")
    keeping.tell_later()
    status = store.find("1")
    assert status is not None
    assert status.state is State.FAILURE
