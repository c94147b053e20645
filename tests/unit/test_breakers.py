from __future__ import annotations

import asyncio

import pytest

from mainstay.breakers import Breaker
from mainstay.errors import NotFound, Unavailable


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker("ledger", failures=2, rest_seconds=10, slow_seconds=1, clock=clock)


def state(breaker: Breaker) -> str:
    return breaker.state


def fail(breaker: Breaker, error: BaseException | None = None) -> None:
    raised = error or Unavailable("the ledger does not answer")
    with pytest.raises(type(raised)), breaker.guard():
        raise raised


def test_it_opens_after_so_many_failures_in_a_row(breaker: Breaker) -> None:
    fail(breaker)
    with breaker.guard():
        pass
    fail(breaker)
    assert state(breaker) == "closed"
    fail(breaker)
    assert state(breaker) == "open"
    with pytest.raises(Unavailable, match="left alone") as caught, breaker.guard():
        pytest.fail("it must not pass")
    assert caught.value.retry_after_seconds == 10


def test_one_probe_passes_after_the_rest_and_closes_it(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    fail(breaker)
    clock.now = 10
    with breaker.guard():
        assert state(breaker) == "half-open"
        with pytest.raises(Unavailable), breaker.guard():
            pytest.fail("only one probe at a time")
    assert state(breaker) == "closed"


def test_a_probe_that_fails_opens_it_again(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    fail(breaker)
    clock.now = 10
    fail(breaker)
    assert state(breaker) == "open"
    clock.now = 19
    with pytest.raises(Unavailable, match="left alone"), breaker.guard():
        pytest.fail("it must not pass")


def test_a_success_that_began_before_it_opened_does_not_close_it(breaker: Breaker) -> None:
    with breaker.guard():
        fail(breaker)
        fail(breaker)
    assert state(breaker) == "open"


def test_a_failure_that_began_before_it_opened_makes_its_rest_no_longer(
    breaker: Breaker, clock: Clock
) -> None:
    with breaker.guard():
        fail(breaker)
        fail(breaker)
        clock.now = 9  # which is slow
    clock.now = 10
    with breaker.guard():
        assert state(breaker) == "half-open"


@pytest.mark.parametrize("error", [NotFound("no such account"), asyncio.CancelledError()])
def test_what_says_nothing_about_the_server_counts_nothing(
    breaker: Breaker, error: BaseException
) -> None:
    for _ in range(5):
        fail(breaker, error)
    assert state(breaker) == "closed"


def test_a_probe_that_is_cancelled_leaves_room_for_the_next(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    fail(breaker)
    clock.now = 10
    fail(breaker, asyncio.CancelledError())
    with breaker.guard():
        pass
    assert state(breaker) == "closed"


def test_slow_answers_are_failures(breaker: Breaker, clock: Clock) -> None:
    for _ in range(2):
        with breaker.guard():
            clock.now += 1.5
    assert state(breaker) == "open"


def test_changes_are_told(clock: Clock) -> None:
    told: list[tuple[str, str]] = []
    breaker = Breaker(
        "ledger", failures=1, rest_seconds=1, clock=clock, on_change=lambda *it: told.append(it)
    )
    fail(breaker)
    clock.now = 1
    with breaker.guard():
        pass
    assert told == [("ledger", "open"), ("ledger", "half-open"), ("ledger", "closed")]


def test_who_watches_is_told_the_state_at_once_and_each_change_once(breaker: Breaker) -> None:
    told: list[tuple[str, str]] = []

    def tell(name: str, state: str) -> None:
        told.append((name, state))

    breaker.watch(tell)
    breaker.watch(tell)
    assert told == [("ledger", "closed")]
    fail(breaker)
    fail(breaker)
    assert told[1:] == [("ledger", "open")]
