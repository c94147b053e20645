from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, WorkerLostError
from celery.worker.request import Request as CeleryRequest

from mainstay.tasks.celery.requests import Request


class Told(Request):
    """A request whose result backend does not answer."""

    name = "add"
    id = "1"
    _already_cancelled = _already_revoked = False

    def __init__(self, *, is_put_back: bool = True) -> None:
        self.given_back: list[bool] = []
        self._message = SimpleNamespace()
        backend = SimpleNamespace(mark_as_failure=cannot)
        self._task = SimpleNamespace(reject_on_worker_lost=is_put_back, backend=backend)
        self._app: Any = SimpleNamespace(
            service=SimpleNamespace(logs=SimpleNamespace(write=lambda *_, **__: None)),
            reports=SimpleNamespace(died=lambda *_: None),
        )

    @property
    def task(self) -> Any:
        return self._task

    def reject(self, requeue: bool = False) -> None:
        self.given_back.append(requeue)

    def _queue(self) -> str:
        return "q"


def cannot(*_: object, **__: object) -> None:
    raise ConnectionError("the result backend does not answer")


def failure(error: Exception) -> ExceptionInfo:
    try:
        raise error
    except type(error):
        return ExceptionInfo()


@pytest.fixture(autouse=True)
def celery_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CeleryRequest, "on_timeout", cannot)
    monkeypatch.setattr(CeleryRequest, "on_failure", cannot)
    monkeypatch.setattr("mainstay.tasks.celery.requests.task_ready", lambda _request: None)


def test_a_process_is_ended_at_its_limit_though_nobody_can_be_told() -> None:
    Told().on_timeout(soft=False, timeout=5)


@pytest.mark.parametrize(
    ("error", "is_put_back", "given_back"),
    [
        (ValueError("x"), True, [False]),
        (MemoryError("x"), True, [False]),
        (WorkerLostError("x"), True, [True]),
        (WorkerLostError("x"), False, [False]),
        (Terminated(9), True, [True]),
        (Terminated(9), False, [False]),
    ],
)
def test_a_message_is_let_go_of_though_nobody_can_be_told(
    error: Exception, is_put_back: bool, given_back: list[bool]
) -> None:
    request = Told(is_put_back=is_put_back)
    request.on_failure(failure(error))
    assert request.given_back[:1] == given_back


@pytest.mark.parametrize(
    ("given", "own", "limits"),
    [
        ((None, None), (300, 290), (300, 290)),
        ((2, None), (300, 290), (2, 1.8)),
        ((None, None), (2, 290), (2, 1.8)),  # as an annotation of the settings has it
        ((2, 5), (300, 290), (2, 1.8)),
        ((None, 400), (300, 290), (300, 290)),
        ((20, 5), (300, 290), (20, 5)),
        ((None, None), (None, None), (None, None)),
    ],
)
def test_the_hard_limit_holds_however_it_is_given(
    given: tuple[float | None, float | None],
    own: tuple[float | None, float | None],
    limits: tuple[float | None, float | None],
) -> None:
    request = Told()
    request._task.time_limit, request._task.soft_time_limit = own
    request.time_limits = given
    assert request.time_limits == pytest.approx(limits)
