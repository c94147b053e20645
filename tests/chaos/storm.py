"""How does one random fault follow the other?"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from tests.chaos.faults import Fault, Luck
from tests.chaos.stage import Stage

__all__ = ["Storm"]


class Storm:
    """Streams of faults. Each strikes with one after the other, and what it did is over before it
    goes on; two streams meet, so a process may die while a server is away.

    No kind of a stream comes again before all have come as often as they weigh.

    Args:
        stage: Where the faults are counted.
        streams: The faults of each.
        every_seconds: How far apart two faults of a stream are, on average.
        longest_seconds: How long one may last.
    """

    def __init__(
        self,
        stage: Stage,
        *streams: Sequence[Fault],
        every_seconds: float,
        longest_seconds: float,
    ) -> None:
        self._stage = stage
        self._streams = streams
        self._every_seconds = every_seconds
        self._longest_seconds = longest_seconds
        self._over = threading.Event()
        self._raging: list[Future[None]] = []

    @contextmanager
    def raging(self) -> Iterator[None]:
        """Strike while the body runs; at the end the last faults are over."""
        with ThreadPoolExecutor(len(self._streams)) as pool:
            self._raging = [
                pool.submit(self._rage, faults, self._luck(number))
                for number, faults in enumerate(self._streams)
            ]
            try:
                yield
            finally:
                self._over.set()
        self.check()

    def _luck(self, number: int) -> Luck:
        return Luck(f"{self._stage.seed}-{number}", longest_seconds=self._longest_seconds)

    def check(self) -> None:
        """Raise what has ended a stream before its time."""
        for stream in self._raging:
            if stream.done():
                stream.result()

    def _rage(self, faults: Sequence[Fault], luck: Luck) -> None:
        deck: list[Fault] = []
        while not self._over.wait(self._every_seconds * luck.random.uniform(0.4, 1.6)):
            if not deck:
                deck = [fault for fault in faults for _ in range(fault.weight)]
                luck.random.shuffle(deck)
            fault = deck.pop()
            if fault.strike(luck):
                self._stage.fault(fault.kind)
