"""The last five minutes of calls, in little room."""

from __future__ import annotations

import random

import pytest

from mainstay.config import Settings
from mainstay.rpc.statistics import Statistics
from mainstay.service import Service


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def statistics(clock: Clock) -> Statistics:
    return Statistics(Service(Settings(env="test")), clock=clock)


def test_without_calls_there_is_nothing_to_tell(statistics: Statistics) -> None:
    assert statistics.snapshot() == {
        "latency": {"count": 0, "avg": None, "p50": None, "p95": None},
        "timeouts_total": 0,
    }


def test_quantiles_are_right_to_a_few_percent(statistics: Statistics) -> None:
    chance = random.Random(20261120)
    took = sorted(chance.lognormvariate(-4, 1.5) for _ in range(5000))
    for seconds in took:
        statistics.answered(seconds)
    latency = statistics.snapshot()["latency"]
    assert latency["count"] == 5000
    assert latency["avg"] == pytest.approx(sum(took) / 5000, rel=0.01)
    assert latency["p50"] == pytest.approx(took[2499], rel=0.03)
    assert latency["p95"] == pytest.approx(took[4749], rel=0.03)


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 86_400.0])
def test_the_extremes_have_a_place(statistics: Statistics, seconds: float) -> None:
    statistics.answered(seconds)
    assert statistics.snapshot()["latency"]["count"] == 1


def test_what_is_older_than_five_minutes_is_forgotten(statistics: Statistics, clock: Clock) -> None:
    statistics.answered(0.1)
    statistics.timed_out()
    clock.now += 290
    statistics.answered(0.1)
    assert statistics.snapshot()["latency"]["count"] == 2
    clock.now += 30
    assert statistics.snapshot()["latency"]["count"] == 1
    clock.now += 1000
    snapshot = statistics.snapshot()
    assert snapshot["latency"]["count"] == 0
    assert snapshot["timeouts_total"] == 1


async def test_it_can_be_asked_from_an_event_loop(statistics: Statistics) -> None:
    statistics.answered(0.1)
    assert (await statistics.asnapshot())["latency"]["count"] == 1


def test_it_can_be_closed_twice_and_used_again(statistics: Statistics) -> None:
    statistics.answered(0.1)
    statistics.close()
    statistics.close()
    statistics.answered(0.1)
    assert statistics.snapshot()["latency"]["count"] == 2
    statistics.close()
