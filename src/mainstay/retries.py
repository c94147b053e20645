"""Is work that failed to be tried again, and when?

What is transient (a server that does not answer, a lock that was not had) is tried again with
exponential back-off and full jitter below a ceiling; anything else can never succeed and belongs
with the dead letters. The decision is a function of values, so every way in makes the same one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from mainstay.deadletters import reason_of
from mainstay.errors import MainstayError, Retry

__all__ = ["Backoff", "BuryAs", "Decision", "RetryIn", "decide", "is_transient"]

# Errors of client libraries that say "the server, not the work": by the name of a class among
# their bases, because the rules import no technology.
_TRANSIENT = frozenset(
    {
        "amqp.exceptions.RecoverableConnectionError",
        "asyncpg.exceptions.PostgresConnectionError",
        "asyncpg.exceptions.DeadlockDetectedError",
        "asyncpg.exceptions.LockNotAvailableError",
        "asyncpg.exceptions.SerializationError",
        "httpx.TransportError",
        "kombu.exceptions.OperationalError",
        "psycopg.OperationalError",
        "redis.exceptions.BusyLoadingError",
        "redis.exceptions.ConnectionError",
        "redis.exceptions.ReadOnlyError",
        "redis.exceptions.TimeoutError",
        "sqlalchemy.exc.OperationalError",
        "sqlalchemy.exc.TimeoutError",
    }
)
# SQLite reports a wrong statement by the class that others keep for a lost connection.
_SQLITE_TRANSIENT = ("locked", "busy", "unable to open", "disk i/o")


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often and how far apart work is tried again.

    The defaults bridge an outage of about a quarter of an hour: 0.5, 1, 2 … 60, 60 … seconds.

    Args:
        attempts: Tries in all, the first one included.
        initial_seconds: Ceiling of the first pause.
        factor: By which the ceiling grows.
        max_seconds: Where the ceiling stops growing.
    """

    attempts: int = 25
    initial_seconds: float = 0.5
    factor: float = 2.0
    max_seconds: float = 60.0

    def ceiling_seconds(self, attempt: int) -> float:
        """Return the longest pause after try number *attempt* (the first is 1)."""
        exponent = min(attempt - 1, 64)  # beyond it a float overflows
        return min(self.initial_seconds * self.factor**exponent, self.max_seconds)

    def pause_seconds(
        self,
        attempt: int,
        *,
        at_least_seconds: float | None = None,
        chance: Callable[[], float] = random.random,
    ) -> float:
        """Return the pause after try number *attempt*: half of its ceiling, or *at_least_seconds*
        where that is more, and up to another half, so that what failed together does not come
        back together.
        """
        half = self.ceiling_seconds(attempt) / 2
        return max(half, at_least_seconds or 0.0) + half * chance()


@dataclass(frozen=True, slots=True)
class RetryIn:
    """Try again after *seconds*."""

    seconds: float


@dataclass(frozen=True, slots=True)
class BuryAs:
    """Give up: a dead letter with this *reason*."""

    reason: str


Decision = RetryIn | BuryAs


def decide(
    error: BaseException,
    attempt: int,
    backoff: Backoff = Backoff(),  # frozen
    *,
    chance: Callable[[], float] = random.random,
) -> Decision:
    """Say what becomes of work whose try number *attempt* (the first is 1) raised *error*."""
    if not is_transient(error) or attempt >= backoff.attempts:
        return BuryAs(reason_of(error))
    wanted = error.retry_after_seconds if isinstance(error, Retry) else None
    return RetryIn(backoff.pause_seconds(attempt, at_least_seconds=wanted, chance=chance))


def is_transient(error: BaseException) -> bool:
    """Is *error* about a server or a lock, so that the same work may succeed later?"""
    if isinstance(error, MainstayError):
        return isinstance(error, Retry)
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    if not kinds & _TRANSIENT and not getattr(error, "connection_invalidated", False):
        return False
    cause = getattr(error, "orig", None)
    if type(cause).__module__ == "sqlite3":
        return any(word in str(cause).lower() for word in _SQLITE_TRANSIENT)
    return True
