"""End what takes too long, with one timer for all requests.

A timer for each would cost more than all other stations together; looking through those in hand
every twentieth of a second costs nothing that can be measured, and is exact enough to say "504".
"""

from __future__ import annotations

import asyncio
import time

__all__ = ["Deadlines", "Timed"]

TICK_SECONDS = 0.05


class Timed:
    """Something on a task that is cancelled when its time is up."""

    ends_at = 0.0
    is_late = False
    _task: asyncio.Task[object] | None = None
    _cancelling = 0

    def begin(self, ends_at: float) -> None:
        """Take the current task for the one that is to be cancelled at *ends_at*."""
        self.ends_at = ends_at
        self._task = task = asyncio.current_task()
        if task is not None:
            self._cancelling = task.cancelling()

    def end(self) -> None:
        """Let go of the task, which holds whatever the work holds."""
        if not self.is_late:
            self._task = None

    def expire(self) -> None:
        """The time is up: cancel the task, once."""
        if not self.is_late and self._task is not None:
            self.is_late = True
            self._task.cancel()

    def absorb(self) -> bool:
        """Take back our own cancellation; false when somebody else cancels the task too."""
        return self._task is None or self._task.uncancel() <= self._cancelling


class Deadlines:
    """All that is under way on one event loop."""

    def __init__(self) -> None:
        self._waiting: set[Timed] = set()
        self._ticks_on: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def watch(self, one: Timed) -> None:
        """Let *one* expire when its time comes, unless it is left alone before."""
        self._waiting.add(one)
        if self._ticks_on is None or self._ticks_on.is_closed():
            self._ticks_on = asyncio.get_running_loop()
            self._ticks_on.call_later(TICK_SECONDS, self._tick, self._ticks_on)

    def leave(self, one: Timed) -> None:
        """Do not let *one* expire any more."""
        self._waiting.discard(one)
        one.end()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        for one in [one for one in self._waiting if one.ends_at <= now]:
            self._waiting.discard(one)
            one.expire()
        if self._waiting:
            loop.call_later(TICK_SECONDS, self._tick, loop)
        else:
            self._ticks_on = None
