"""Who keeps the whole subject at work: with tasks, calls and requests, all at once?"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tests.chaos.callers import Callers
from tests.chaos.clients import Clients
from tests.chaos.processes import Process
from tests.chaos.senders import Senders
from tests.chaos.stage import Stage

__all__ = ["Load"]

SENDERS, CALLERS, CLIENTS = 4, 8, 12
LONGEST_SECONDS = 0.2
_LOOK_SECONDS = 1.0


class Load:
    """Sends, calls and asks at a steady pace, and waits where the subject falls behind.

    Args:
        stage: Where it plays.
        apis: Who is asked.
        per_second: How many units there are of each kind.
        backlog: With so many tasks waiting nothing more is sent for a while: what is waited for
            is the end of faults, not of a backlog.
    """

    def __init__(
        self, stage: Stage, apis: Sequence[Process], *, per_second: float, backlog: int = 400
    ) -> None:
        self.callers = Callers(stage, timeout_seconds=10.0)
        self.senders = Senders(stage)
        self.waiting = 0
        """How many tasks waited when they could last be counted."""
        self._stage = stage
        self._apis = apis
        self._backlog = backlog
        self._paces = [_Pace(per_second) for _ in range(3)]
        self._luck = random.Random(stage.seed)
        self._over = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keep the subject at work while the body runs; at the end each client hears of its last
        unit.
        """
        tasks, calls, _ = self._paces
        with ThreadPoolExecutor(SENDERS + CALLERS + 2) as pool:
            working = [pool.submit(self._repeat, tasks, self._send) for _ in range(SENDERS)]
            working += [pool.submit(self._repeat, calls, self._call) for _ in range(CALLERS)]
            working += [pool.submit(asyncio.run, self._ask()), pool.submit(self._look)]
            try:
                yield
            finally:
                self._over.set()
            for each in working:
                each.result()

    def _repeat(self, pace: _Pace, act: Callable[[], object]) -> None:
        while not self._over.is_set():
            time.sleep(pace.seconds_left())
            if not self._is_behind:
                act()

    def _send(self) -> None:
        self.senders.send(seconds=self._seconds())

    def _call(self) -> None:
        self.callers.call(seconds=self._seconds())

    async def _ask(self) -> None:
        async with Clients(self._stage, *self._apis) as clients:
            await asyncio.gather(*(self._order(clients) for _ in range(CLIENTS)))

    async def _order(self, clients: Clients) -> None:
        while not self._over.is_set():
            await asyncio.sleep(self._paces[-1].seconds_left())
            if not self._is_behind:
                await clients.order(self._stage.ledger.submit(), seconds=self._seconds())

    def _seconds(self) -> float:
        """Return for how long a handler is to work: half of them not at all."""
        return max(0.0, self._luck.uniform(-LONGEST_SECONDS, LONGEST_SECONDS))

    @property
    def _is_behind(self) -> bool:
        return self.waiting > self._backlog

    def _look(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            try:
                self.waiting = self._stage.behind()
            except Exception:  # noqa: BLE001, S112 - the servers that are asked are down at times
                continue


class _Pace:
    """Spreads what is done evenly; what was missed is not made up for."""

    def __init__(self, per_second: float) -> None:
        self._pause_seconds = 1 / per_second
        self._due_at = 0.0
        self._lock = threading.Lock()

    def seconds_left(self) -> float:
        """Return how long whoever asks now has to wait for its turn."""
        with self._lock:
            now = time.monotonic()
            self._due_at = max(self._due_at + self._pause_seconds, now)
            return self._due_at - now
