"""Health: what is asked, how often, and what the answers come to."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from mainstay import health as module
from mainstay.errors import Unavailable
from mainstay.health import Check, Health
from mainstay.lifecycle import Lifecycle
from tests.waiting import PATIENCE_SECONDS


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Server:
    """Something that is asked, and counts how often."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked = 0
        self.error = error

    def ping(self) -> dict[str, object]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return {"version": "16"}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lifecycle(clock: Clock) -> Lifecycle:
    return Lifecycle(clock=clock)


@pytest.fixture
def health(lifecycle: Lifecycle, clock: Clock) -> Iterator[Health]:
    health = Health("orders", "1.2", lifecycle, clock=clock)
    yield health
    health.close()


def test_nothing_held_open_is_healthy(health: Health) -> None:
    assert health.health().as_dict() == {
        "status": "healthy",
        "service": "orders",
        "version": "1.2",
        "checks": {},
    }


def test_a_check_shows_its_latency_and_what_it_found(health: Health) -> None:
    health.add(Check("database", Server().ping))

    report = health.health()

    assert (report.status, report.http_status) == ("healthy", 200)
    shown = report.checks["database"]
    assert shown["status"] == "healthy"
    assert shown["version"] == "16"
    assert isinstance(shown["latency_ms"], float)


@pytest.mark.parametrize(
    ("optional", "status", "http_status"), [(False, "unhealthy", 503), (True, "degraded", 200)]
)
def test_what_does_not_answer_counts_by_whether_it_is_needed(
    health: Health, optional: bool, status: str, http_status: int
) -> None:
    health.add(Check("cache", Server().ping))
    health.add(Check("broker", Server(ConnectionError("amqp://u:p@h")).ping, optional))

    report = health.health()

    assert (report.status, report.http_status) == (status, http_status)
    assert report.checks["cache"]["status"] == "healthy"
    assert report.checks["broker"]["detail"] == "ConnectionError"


def test_our_own_errors_say_what_is_wrong(health: Health) -> None:
    health.add(Check("broker", Server(Unavailable("it has raised an alarm")).ping))
    assert health.health().checks["broker"]["detail"] == "Unavailable: it has raised an alarm"


def test_an_optional_part_does_not_hide_a_needed_one(health: Health) -> None:
    health.add(Check("a", Server(OSError()).ping, optional=True))
    health.add(Check("b", Server(OSError()).ping))

    assert health.health().status == "unhealthy"


def test_an_answer_is_kept_for_a_second(health: Health, clock: Clock) -> None:
    server = Server()
    health.add(Check("database", server.ping))

    health.health()
    health.health()
    clock.now += 0.9
    health.ready()
    assert server.asked == 1

    clock.now += 0.2
    health.health()
    assert server.asked == 2


def test_a_check_that_hangs_is_asked_once_and_reported(
    health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECK_TIMEOUT_SECONDS", 0.05)
    release = threading.Event()
    asked = []

    def hang() -> None:
        asked.append(1)
        release.wait(PATIENCE_SECONDS)

    health.add(Check("database", hang))
    try:
        for _ in range(3):
            report = health.health()
            assert report.status == "unhealthy"
            assert "no answer within" in str(report.checks["database"]["detail"])
    finally:
        release.set()

    assert len(asked) == 1


async def test_many_who_ask_at_once_get_one_true_answer(
    health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECK_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    release = threading.Event()
    server = Server()

    def slow() -> dict[str, object]:
        release.wait(PATIENCE_SECONDS)
        return server.ping()

    for name in ("a", "b"):
        health.add(Check(name, slow))
    asking = [asyncio.ensure_future(health.ahealth()) for _ in range(50)]
    await asyncio.sleep(0)
    release.set()

    reports = await asyncio.gather(*asking)

    assert {report.status for report in reports} == {"healthy"}
    assert server.asked == 2


async def test_a_hanging_check_does_not_stop_the_event_loop(
    health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECK_TIMEOUT_SECONDS", 0.05)
    release = threading.Event()

    def hang() -> None:
        release.wait(PATIENCE_SECONDS)

    health.add(Check("database", hang))
    try:
        report = await health.ahealth()
        ready = await health.aready()
    finally:
        release.set()

    assert report.status == "unhealthy"
    assert ready.status == "unhealthy"


async def test_work_can_be_done_aside(health: Health) -> None:
    assert await health.aside(threading.get_ident) != threading.get_ident()


def test_ready_is_between_start_and_drain(health: Health, lifecycle: Lifecycle) -> None:
    assert health.ready().checks["process"] == {"status": "unhealthy", "phase": "starting"}

    lifecycle.started()
    assert health.ready().ok

    lifecycle.drain()
    assert health.ready().checks["process"] == {"status": "unhealthy", "phase": "draining"}
    assert health.health().ok


def test_what_is_true_of_starting_up_is_asked_for_readiness_alone(
    health: Health, lifecycle: Lifecycle
) -> None:
    lifecycle.started()
    health.add_readiness(Check("schema", Server(RuntimeError()).ping))

    assert not health.ready().ok
    assert health.health().ok


def test_alive_is_progress_and_asks_nobody(
    health: Health, lifecycle: Lifecycle, clock: Clock
) -> None:
    server = Server(OSError())
    health.add(Check("database", server.ping))
    pulse = lifecycle.pulse("consumer", limit_seconds=10)

    clock.now += 9
    assert health.alive().ok
    clock.now += 2
    report = health.alive()

    assert not report.ok
    assert report.checks["consumer"] == {
        "status": "unhealthy",
        "age_seconds": 11.0,
        "limit_seconds": 10,
    }
    pulse.beat()
    assert health.alive().ok
    assert server.asked == 0


def test_closing_twice_and_asking_again_is_allowed(health: Health) -> None:
    health.add(Check("database", Server().ping))
    health.close()
    health.close()

    assert health.health().ok


def in_child(work: Callable[[], bool]) -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forks beside threads
def test_a_forked_child_asks_with_threads_of_its_own(health: Health) -> None:
    health.add(Check("database", Server().ping))
    health.health()

    def child() -> bool:
        health.forked()
        return health.health().ok

    assert in_child(child)
