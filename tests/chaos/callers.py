"""How do the callers of the subject call, how long did each wait, and what were they told?"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from mainstay.errors import MainstayError
from tests.chaos.ledger import told_by
from tests.chaos.stage import Stage
from tests.chaos.subject.service import CALLS_QUEUE

__all__ = ["Callers"]

# A caller whose call was refused waits a little, as anybody would, before the next.
_PAUSE_SECONDS = 0.05


class Callers:
    """Any number of callers, on threads and on event loops, who share the one client of the stage.

    Each call is a unit and sent once, under the unit's id: who hears an error does not try again.

    Args:
        stage: Where they play.
        timeout_seconds: What each of them waits.
    """

    def __init__(self, stage: Stage, *, timeout_seconds: float = 10.0) -> None:
        self.errors: Counter[str] = Counter()
        """How often each error was raised."""
        self.late_seconds = 0.0
        """How long after its deadline the last call ended."""
        self.mixed = 0
        """How many were given the answer of another."""
        self._stage = stage
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()

    def call(self, **data: object) -> str:
        """Call as a new unit, on this thread; returns the unit."""
        unit, began = self._stage.ledger.submit(), time.monotonic()
        error: MainstayError | None = None
        try:
            self._check(unit, self._stage.calls.call(**self._arguments(unit, data)))
        except MainstayError as raised:
            error = raised
            time.sleep(_PAUSE_SECONDS)
        self._note(unit, began, error)
        return unit

    async def acall(self, **data: object) -> str:
        """Call as a new unit, on this event loop; returns the unit."""
        unit, began = self._stage.ledger.submit(), time.monotonic()
        error: MainstayError | None = None
        try:
            self._check(unit, await self._stage.calls.acall(**self._arguments(unit, data)))
        except MainstayError as raised:
            error = raised
            await asyncio.sleep(_PAUSE_SECONDS)
        self._note(unit, began, error)
        return unit

    @contextmanager
    def calling(self, *, threads: int = 0, tasks: int = 0, **data: object) -> Iterator[None]:
        """Call on and on while the body runs, from *threads* threads and from *tasks* tasks of one
        event loop; each ends the call that it is in.
        """
        over = threading.Event()

        def on_a_thread() -> None:
            while not over.is_set():
                self.call(**data)

        async def on_a_task() -> None:
            while not over.is_set():
                await self.acall(**data)

        async def on_a_loop() -> None:
            await asyncio.gather(*(on_a_task() for _ in range(tasks)))

        with ThreadPoolExecutor(threads + 1) as pool:
            calling = [pool.submit(on_a_thread) for _ in range(threads)]
            calling.append(pool.submit(asyncio.run, on_a_loop()))
            try:
                yield
            finally:
                over.set()
            for each in calling:
                each.result()

    def _arguments(self, unit: str, data: dict[str, object]) -> dict[str, Any]:
        return {
            "queue": CALLS_QUEUE,
            "data": {"unit": unit, **data},
            "function": "record",
            "timeout_seconds": self._timeout_seconds,
            "id": unit,
        }

    def _check(self, unit: str, answer: object) -> None:
        if answer != unit:
            with self._lock:
                self.mixed += 1

    def _note(self, unit: str, began: float, error: MainstayError | None) -> None:
        late = time.monotonic() - began - self._timeout_seconds
        self._stage.ledger.settle(unit, "accepted" if error is None else told_by(error))
        with self._lock:
            self.late_seconds = max(self.late_seconds, late)
            if error is not None:
                self.errors[type(error).__name__] += 1
