"""How often may one caller ask? Counted in this process, or on a server for all of them together.

The counting is done by the `limits` library. What is decided here is what happens when the server
that counts is away.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from mainstay.config import rate as parse_rate
from mainstay.errors import LimitExceeded, Unavailable

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.strategies import RateLimiter

__all__ = ["Counts", "MemoryCounts", "OnStoreError", "RateLimits", "Rule"]

OnStoreError = Literal["local", "deny", "allow"]

REST_SECONDS = 1.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rule:
    """So many requests in so many seconds.

    Args:
        requests: How many are admitted in a window.
        window_seconds: How long the window is.
        on_store_error: While the server that counts is away: ``local`` counts in this process
            alone, so the whole service admits up to as many times more as it has processes;
            ``deny`` refuses, right for logins; ``allow`` admits everything.
    """

    requests: int
    window_seconds: int
    on_store_error: OnStoreError = "local"

    @classmethod
    def parse(cls, rate: str, *, on_store_error: OnStoreError = "local") -> Rule:
        """Read ``300/minute``.

        Raises:
            ValueError: It has another form.
        """
        requests, window_seconds = parse_rate(rate)
        return cls(requests, window_seconds, on_store_error)


class Counts(Protocol):
    """Where requests are counted; `mainstay.resources.redis.limits.RedisCounts` is one."""

    def hit(self, rule: Rule, key: str) -> float | None:
        """Count one request of *key*; return ``None`` when it is admitted, else in how many
        seconds the next one may be.
        """

    async def ahit(self, rule: Rule, key: str) -> float | None:
        """As :meth:`hit`."""


class MemoryCounts:
    """Counts of this process alone, which never wait."""

    def __init__(self) -> None:
        self._limiter: RateLimiter | None = None
        self._items: dict[Rule, RateLimitItem] = {}

    def hit(self, rule: Rule, key: str) -> float | None:
        limiter, item = self._limiter, self._items.get(rule)
        if limiter is None or item is None:
            limiter, item = self._make(rule)
        if limiter.hit(item, key):
            return None
        return limiter.get_window_stats(item, key).reset_time - time.time()

    async def ahit(self, rule: Rule, key: str) -> float | None:
        return self.hit(rule, key)

    def _make(self, rule: Rule) -> tuple[RateLimiter, RateLimitItem]:
        from limits import RateLimitItemPerSecond
        from limits.storage import MemoryStorage
        from limits.strategies import FixedWindowRateLimiter

        self._limiter = self._limiter or FixedWindowRateLimiter(MemoryStorage())
        item = self._items[rule] = RateLimitItemPerSecond(rule.requests, rule.window_seconds)
        return self._limiter, item


class RateLimits:
    """Counts requests by caller, and refuses those beyond a rule.

    Args:
        shared: Counts that all processes share; without them each counts for itself.
        clock: Monotonic seconds.
    """

    def __init__(
        self, shared: Counts | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._shared = shared
        self._local = MemoryCounts()
        self._clock = clock
        self._resting_until = float("-inf")

    def hit(self, rule: Rule, key: str) -> None:
        """Count one request of *key*.

        Raises:
            LimitExceeded: There have been too many; says when to come back.
            Unavailable: The counts cannot be had, and *rule* denies then.
        """
        if self._shared is not None and self._asks(rule):
            try:
                wait_seconds = self._shared.hit(rule, key)
            except Exception as error:  # noqa: BLE001 - whatever a client library raises
                self._rest(rule, error)
            else:
                return _decide(rule, wait_seconds)
        return self._count_here(rule, key)

    async def ahit(self, rule: Rule, key: str) -> None:
        """As :meth:`hit`, without stopping the event loop."""
        if self._shared is not None and self._asks(rule):
            try:
                wait_seconds = await self._shared.ahit(rule, key)
            except Exception as error:  # noqa: BLE001 - whatever a client library raises
                self._rest(rule, error)
            else:
                return _decide(rule, wait_seconds)
        return self._count_here(rule, key)

    def _asks(self, rule: Rule) -> bool:
        """Is the server to be asked? While it does not answer, once a second is enough."""
        if self._clock() >= self._resting_until:
            return True
        if rule.on_store_error == "deny":
            raise _no_counts()
        return False

    def _rest(self, rule: Rule, error: Exception) -> None:
        self._resting_until = self._clock() + REST_SECONDS
        _logger.warning(
            "the server that counts requests does not answer (%s): rules that may are counted here",
            type(error).__name__,
        )
        if rule.on_store_error == "deny":
            raise _no_counts() from error

    def _count_here(self, rule: Rule, key: str) -> None:
        if self._shared is None or rule.on_store_error == "local":
            _decide(rule, self._local.hit(rule, key))


def _decide(rule: Rule, wait_seconds: float | None) -> None:
    if wait_seconds is None:
        return
    seconds = min(max(math.ceil(wait_seconds), 1), rule.window_seconds)
    raise LimitExceeded(
        f"more than {rule.requests} requests in {rule.window_seconds} s: ask again in {seconds} s",
        retry_after_seconds=seconds,
        limit=rule.requests,
        window_seconds=rule.window_seconds,
    )


def _no_counts() -> Unavailable:
    return Unavailable("requests cannot be counted just now, and this one must be: ask again")
