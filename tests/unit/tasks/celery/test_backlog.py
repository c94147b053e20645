from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import state

from mainstay.config import Settings
from mainstay.service import Service
from mainstay.tasks.celery.backlog import Backlog
from mainstay.tasks.celery.depths import Depth


class Queues:
    """A broker with one queue."""

    def __init__(self, ready: int) -> None:
        self.ready = ready
        self.is_up = True

    def look(self, queues: Iterable[str]) -> Mapping[str, Depth]:
        if not self.is_up:
            raise ConnectionError
        return {queue: Depth(self.ready) for queue in queues}

    def close(self) -> None: ...


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counts: Counter[str] = Counter()
    monkeypatch.setattr(state, "total_count", counts)
    return counts


def watching(queues: Queues, *, is_taking: bool = True) -> Backlog:
    app: Any = SimpleNamespace(
        worker=SimpleNamespace(is_taking=is_taking), service=Service(Settings(env="test"))
    )
    return Backlog(app, ["q"], queues)


def test_a_free_worker_that_leaves_what_waits_is_stuck(done: Counter[str]) -> None:
    watched = watching(Queues(ready=3))
    assert not watched.look()
    done["add"] += 1
    assert watched.look()
    assert not watched.look()


@pytest.mark.usefixtures("done")
def test_a_worker_without_work_or_without_a_free_hand_is_well() -> None:
    assert watching(Queues(ready=0)).look()
    assert watching(Queues(ready=3), is_taking=False).look()


@pytest.mark.usefixtures("done")
def test_a_broker_that_does_not_answer_is_not_the_workers_fault() -> None:
    queues = Queues(ready=3)
    watched = watching(queues)
    assert not watched.look()
    queues.is_up = False
    assert watched.look()
