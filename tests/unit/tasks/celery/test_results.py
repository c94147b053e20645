from __future__ import annotations

import pickle

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import BackendStoreError, Reject

from mainstay.config import Settings
from mainstay.errors import NotConnected
from mainstay.tasks.celery import create_celery_app, results


class Clock:
    """Time that passes when somebody waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("mainstay.tasks.celery.results.time.monotonic", lambda: self.now)
        monkeypatch.setattr("mainstay.tasks.celery.results.time.sleep", self.sleep)

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

    assert results.retried(tell, "the end") == "told"
    assert clock.now < 103
    assert len(caplog.records) == 1


def test_a_time_limit_that_comes_amid_an_outage_is_no_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Clock(monkeypatch)

    def tell() -> None:
        try:
            raise ConnectionResetError
        except ConnectionResetError:
            raise SoftTimeLimitExceeded from None

    def tell_with_context() -> None:
        try:
            raise ConnectionResetError
        except ConnectionResetError:
            raise SoftTimeLimitExceeded  # noqa: B904 - as a client library does

    for each in (tell, tell_with_context):
        with pytest.raises(Reject) as back:
            results.retried(each, "the end")
        assert back.value.requeue


def test_after_two_minutes_the_message_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def tell() -> None:
        raise ConnectionResetError

    with pytest.raises(Reject) as back:
        results.retried(tell, "the end")
    assert back.value.requeue
    assert 110 < clock.now <= 120


def test_at_the_soft_time_limit_the_message_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def tell() -> None:
        raise ConnectionResetError if clock.now < 50 else SoftTimeLimitExceeded

    with pytest.raises(Reject) as back:
        results.retried(tell, "the end")
    assert back.value.requeue


@pytest.mark.parametrize("error", [ValueError("no JSON"), of_cause(TypeError())])
def test_what_can_never_be_told_is_an_error_at_once(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    clock = Clock(monkeypatch)

    def tell() -> None:
        raise error

    with pytest.raises(type(error)):
        results.retried(tell, "the end")
    assert clock.now == 0


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "sqlite://"])
def test_a_result_can_be_pickled_as_celerys_own(url: str) -> None:
    settings = Settings(env="test", celery_broker_url="memory://", celery_result_backend=url)
    app = create_celery_app(settings)
    app.set_current()
    back = pickle.loads(pickle.dumps(app.AsyncResult("1")))  # noqa: S301 - our own
    assert back.id == "1"
    app.service.stop()


def test_failures_are_marked_as_celerys_backends_take_them() -> None:
    settings = Settings(env="test", celery_broker_url="memory://", celery_result_backend=None)
    backend = create_celery_app(settings).backend
    backend.mark_as_failure("1", ValueError("no"), None, None, True, False)
