"""When has something become true that takes a moment?"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

__all__ = ["async_eventually", "eventually"]

T = TypeVar("T")


def eventually(
    check: Callable[[], T], *, timeout_seconds: float = 60.0, every_seconds: float = 0.02
) -> T:
    """Call *check* until it returns something true, and return that.

    A check that raises is asked again, so it may be made of assertions.

    Raises:
        AssertionError: The time is over; has what the check returned last, or what it raised.
    """
    polls = _Polls(timeout_seconds)
    while True:
        last: object
        try:
            last = answer = check()
            if answer:
                return answer
        except Exception as error:  # noqa: BLE001 - whatever it is, time may mend it
            last = error
        polls.another(last)
        time.sleep(every_seconds)


@overload
async def async_eventually(
    check: Callable[[], Awaitable[T]],
    *,
    timeout_seconds: float = ...,
    every_seconds: float = ...,
) -> T: ...
@overload
async def async_eventually(
    check: Callable[[], T], *, timeout_seconds: float = ..., every_seconds: float = ...
) -> T: ...
async def async_eventually(
    check: Callable[[], object], *, timeout_seconds: float = 60.0, every_seconds: float = 0.02
) -> object:
    """Call *check*, a function or a coroutine function, as `eventually` does."""
    polls = _Polls(timeout_seconds)
    while True:
        last: object
        try:
            last = check()
            if inspect.isawaitable(last):
                last = await last
            if last:
                return last
        except Exception as error:  # noqa: BLE001 - whatever it is, time may mend it
            last = error
        polls.another(last)
        await asyncio.sleep(every_seconds)


class _Polls:
    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._deadline = time.monotonic() + timeout_seconds

    def another(self, last: object) -> None:
        """Give up when the time is over, and tell the *last* answer."""
        if time.monotonic() < self._deadline:
            return
        cause = last if isinstance(last, Exception) else None
        raise AssertionError(
            f"not within {self._timeout_seconds:g} s; at last: {last!r}"
        ) from cause
