from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from mainstay.errors import LimitExceeded, Unavailable
from mainstay.limits import OnStoreError, RateLimits, Rule

Hit = Callable[[RateLimits, Rule, str], None]


class Away:
    """A server of counts that does not answer."""

    asked = 0

    def hit(self, rule: Rule, key: str) -> float | None:
        self.asked += 1
        raise ConnectionError("refused")

    async def ahit(self, rule: Rule, key: str) -> float | None:
        return self.hit(rule, key)


class Full(Away):
    def hit(self, rule: Rule, key: str) -> float | None:
        return 7.2


@pytest.fixture(params=["sync", "async"])
def hit(request: pytest.FixtureRequest) -> Hit:
    if request.param == "sync":
        return lambda limits, rule, key: limits.hit(rule, key)
    return lambda limits, rule, key: asyncio.run(limits.ahit(rule, key))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_rule_is_read_from_words() -> None:
    assert Rule.parse("300/minute") == Rule(300, 60)
    assert Rule.parse("5 / hours", on_store_error="deny") == Rule(5, 3600, "deny")
    with pytest.raises(ValueError, match="no rate"):
        Rule.parse("often")


def test_as_many_as_the_rule_says_are_admitted(hit: Hit) -> None:
    limits, rule = RateLimits(), Rule(2, 3600)
    hit(limits, rule, "a")
    hit(limits, rule, "a")
    with pytest.raises(LimitExceeded) as caught:
        hit(limits, rule, "a")
    error = caught.value
    assert (error.limit, error.window_seconds) == (2, 3600)
    assert error.retry_after_seconds is not None
    assert 1 <= error.retry_after_seconds <= 3600
    hit(limits, rule, "b")


def test_rules_are_counted_by_themselves(hit: Hit) -> None:
    limits = RateLimits()
    hit(limits, Rule(1, 3600), "a")
    hit(limits, Rule(2, 3600), "a")


@pytest.mark.parametrize("policy", ["local", "allow"])
def test_without_the_server_a_rule_may_go_on(hit: Hit, policy: OnStoreError) -> None:
    limits, rule = RateLimits(Away()), Rule(1, 3600, policy)
    hit(limits, rule, "a")
    if policy == "allow":
        hit(limits, rule, "a")
    else:
        with pytest.raises(LimitExceeded):
            hit(limits, rule, "a")


def test_without_the_server_a_rule_may_refuse(hit: Hit) -> None:
    limits, rule = RateLimits(Away()), Rule(100, 60, "deny")
    for _ in range(2):
        with pytest.raises(Unavailable):
            hit(limits, rule, "a")


def test_a_server_that_is_away_is_asked_once_a_second(hit: Hit) -> None:
    clock, away = Clock(), Away()
    limits, rule = RateLimits(away, clock=clock), Rule(100, 60)
    asked = []
    for clock.now in (0.0, 0.5, 0.9, 1.1, 1.2):
        hit(limits, rule, "a")
        asked.append(away.asked)
    assert asked == [1, 1, 1, 2, 2]


def test_shared_counts_decide(hit: Hit) -> None:
    with pytest.raises(LimitExceeded) as caught:
        hit(RateLimits(Full()), Rule(1, 60), "a")
    assert caught.value.retry_after_seconds == 8
