from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded

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


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "_LAST_WORD_PAUSES_SECONDS", (0.0, 0.0, 0.0))


def told_to(store: Blinking, monkeypatch: pytest.MonkeyPatch) -> reports.Reports:
    monkeypatch.setattr(reports, "store_of", lambda *_, **__: store)
    service = Service(Settings(env="test", celery_broker_url="memory://"))
    return create_celery_app(service).reports


def task() -> Any:
    return SimpleNamespace(
        name="add", track_status=True, request=SimpleNamespace(id="1", retries=0)
    )


def test_the_last_word_on_a_task_outlasts_a_blip_of_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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


@pytest.mark.parametrize(("error", "asked"), [(ConnectionResetError(), 4), (ValueError(), 1)])
def test_a_store_that_stays_away_does_not_undo_the_work(
    monkeypatch: pytest.MonkeyPatch, error: Exception, asked: int
) -> None:
    store = Blinking(100, error)
    told_to(store, monkeypatch).succeeded(task(), 1, 42)
    assert store.asked == asked


def test_a_task_hears_of_its_time_limit_while_it_tells_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    telling = told_to(Blinking(1, SoftTimeLimitExceeded()), monkeypatch)
    with pytest.raises(SoftTimeLimitExceeded):
        telling.progress(task(), {"current": 1})
    # Once the work is over, nothing can stop it any more.
    told_to(Blinking(1, SoftTimeLimitExceeded()), monkeypatch).succeeded(task(), 1, 42)


def test_the_first_dead_task_of_a_worker_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Blinking(0, ValueError())
    keeping = told_to(store, monkeypatch)
    keeping.died("1", "crash:SIGKILL", "the process was killed")
    keeping.tell_later()
    status = store.find("1")
    assert status is not None
    assert status.state is State.FAILURE
