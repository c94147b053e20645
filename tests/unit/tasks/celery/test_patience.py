from __future__ import annotations

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import BackendStoreError, Reject

from mainstay.errors import NotConnected
from mainstay.tasks.celery import patience


class Clock:
    """Time that passes when somebody waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("mainstay.tasks.celery.patience.time.monotonic", lambda: self.now)
        monkeypatch.setattr("mainstay.tasks.celery.patience.time.sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def of_cause(cause: BaseException) -> BackendStoreError:
    error = BackendStoreError("failed to store result on the backend")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error", [ConnectionResetError(), NotConnected("away"), of_cause(ConnectionRefusedError())]
)
def test_an_end_is_told_as_soon_as_its_server_is_back(
    monkeypatch: pytest.MonkeyPatch, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch)

    def tell() -> str:
        if clock.now < 100:
            raise error
        return "told"

    assert patience.insist(tell, "the end") == "told"
    assert clock.now < 103
    assert len(caplog.records) == 1


def test_after_two_minutes_the_message_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def tell() -> None:
        raise ConnectionResetError

    with pytest.raises(Reject) as back:
        patience.insist(tell, "the end")
    assert back.value.requeue
    assert 110 < clock.now <= 120


def test_at_the_soft_time_limit_the_message_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def tell() -> None:
        raise ConnectionResetError if clock.now < 50 else SoftTimeLimitExceeded

    with pytest.raises(Reject) as back:
        patience.insist(tell, "the end")
    assert back.value.requeue


@pytest.mark.parametrize("error", [ValueError("no JSON"), of_cause(TypeError())])
def test_what_can_never_be_told_is_an_error_at_once(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    clock = Clock(monkeypatch)

    def tell() -> None:
        raise error

    with pytest.raises(type(error)):
        patience.insist(tell, "the end")
    assert clock.now == 0
