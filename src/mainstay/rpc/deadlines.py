"""When does somebody stop waiting? A thread that looks at nothing but the clock.

It is apart from the thread that talks to the broker, because that one may be held up by a
connection or a full socket just when a deadline comes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Container
from heapq import heappop, heappush

__all__ = ["Deadlines"]

# Calls that were answered leave their deadline behind; it is cleared away this often.
SWEEP_SECONDS = 0.5


class Deadlines:
    """Calls *expire* with each id whose deadline has come while it was still *waiting*."""

    def __init__(self, waiting: Container[str], expire: Callable[[str], object]) -> None:
        self._waiting = waiting
        self._expire = expire
        self._heap: list[tuple[float, str]] = []
        self._new: deque[tuple[float, str]] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._wakes_at = float("inf")
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="calls-clock", daemon=True)
        self._thread.start()

    def add(self, at: float, id: str) -> None:
        """Expire *id* when the monotonic clock says *at*."""
        self._new.append((at, id))
        if at < self._wakes_at:
            with self._changed:
                self._wakes_at = min(at, self._wakes_at)  # so that a burst wakes the thread once
                self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                due = self._due()
                if not due:
                    if self._is_closed:
                        return
                    self._wait()
            for id in due:
                self._expire(id)

    def _due(self) -> list[str]:
        now, due = time.monotonic(), []
        while self._new:
            heappush(self._heap, self._new.popleft())
        while self._heap:
            at, id = self._heap[0]
            if id in self._waiting:
                if at > now:
                    break
                due.append(id)
            heappop(self._heap)
        return due

    def _wait(self) -> None:
        now = time.monotonic()
        first = self._heap[0][0] if self._heap else float("inf")
        # Said before looking whether one has come meanwhile, which may not have seen it.
        self._wakes_at = min(first, now + SWEEP_SECONDS) if self._heap else first
        if not self._new:
            self._changed.wait(None if self._wakes_at == float("inf") else self._wakes_at - now)
