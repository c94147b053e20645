"""How long did calls take in the last five minutes, over all processes of the service?

Each answer falls into one of some hundred buckets of a ten-second slot, so that what is kept
does not grow with the traffic. With Redis the slots are shared: every process adds its counts
once a second, and any of them can tell for all. Without Redis each tells for itself.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, TypedDict

from mainstay import forks
from mainstay.errors import MissingExtra

if TYPE_CHECKING:
    from mainstay.rpc.redis_streams.statistics import SharedSlots
    from mainstay.service import Service

__all__ = ["WINDOW_SECONDS", "Latency", "Snapshot", "Statistics", "summary"]

WINDOW_SECONDS = 300
SLOT_SECONDS = 10
FLUSH_SECONDS = 1.0

# Bucket n holds what took from 10 µs · 2^(n/16) up to the next: quantiles are right to 2.2 %.
_SMALLEST_SECONDS = 10e-6
_PER_OCTAVE = 16
_LAST_BUCKET = 30 * _PER_OCTAVE

MICROSECONDS = "us"
"""The field of a slot that holds the sum; every other one is the number of a bucket."""

Slot = Counter[str]


class Latency(TypedDict):
    """Seconds; ``None`` where nothing was answered."""

    count: int
    avg: float | None
    p50: float | None
    p95: float | None


class Snapshot(TypedDict):
    latency: Latency
    timeouts_total: int


class Statistics:
    """Counts calls, and tells for the last five minutes.

    Args:
        service: Whose calls they are; its `redis_url` says where counts are shared.
        clock: Seconds since the epoch, the same for all processes.
    """

    def __init__(self, service: Service, *, clock: Callable[[], float] = time.time) -> None:
        self._service = service
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._begin()

    def answered(self, seconds: float) -> None:
        """Count a call that was answered, by a result or by an error."""
        if self._generation != forks.generation():
            self._begin()
        # Put into its bucket later, and not by who waits for the answer.
        self._answers.append((int(self._clock() // SLOT_SECONDS), seconds))
        if self._thread is None:
            with self._lock:
                self._start()

    def timed_out(self) -> None:
        """Count a call whose deadline came before its answer."""
        with self._mine():
            self._start()
            self._timeouts += 1

    def snapshot(self) -> Snapshot:
        """Return what is known now; asks Redis, where it is used.

        While Redis does not answer, what this process knows of itself.
        """
        shared = self._shared_slots()
        with suppress(OSError):
            self._flush(shared)
            if shared is not None:
                slots, timeouts = shared.read(self._window())
                return {"latency": summary(slots), "timeouts_total": timeouts}
        with self._mine():
            return {"latency": summary(self._slots.values()), "timeouts_total": self._timeouts}

    async def asnapshot(self) -> Snapshot:
        """As :meth:`snapshot`, without stopping the event loop."""
        return await asyncio.to_thread(self.snapshot)

    def close(self) -> None:
        """Share what was counted since the last time, and let go of the connection."""
        if self._generation != forks.generation():
            return
        self._closing.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(FLUSH_SECONDS + 2.0)

    def _begin(self) -> None:
        self._generation = forks.generation()
        self._lock = threading.Lock()
        self._answers: deque[tuple[int, float]] = deque()
        self._slots: dict[int, Slot] = {}
        self._unshared: dict[int, Slot] = {}
        self._timeouts = self._shared_timeouts = 0
        self._flushing = threading.Lock()
        self._thread = None
        self._closing = threading.Event()
        self._shared: SharedSlots | None = None
        self._has_looked = False

    def _mine(self) -> threading.Lock:
        if (
            self._generation != forks.generation()
        ):  # after a fork: what the parent counted, it will share itself
            self._begin()
        return self._lock

    def _start(self) -> None:
        if self._thread is None:
            self._closing = threading.Event()
            arguments = (self._closing,)
            self._thread = threading.Thread(
                target=self._run, args=arguments, name="calls-statistics", daemon=True
            )
            self._thread.start()

    def _run(self, closing: threading.Event) -> None:
        shared = self._shared_slots()
        is_over = False
        while not is_over:
            is_over = closing.wait(FLUSH_SECONDS)
            with suppress(OSError):  # what was not shared is shared next time
                self._flush(shared)
        if shared is not None:
            shared.close()

    def _flush(self, shared: SharedSlots | None) -> None:
        with self._flushing:
            with self._mine():
                for number, slot in self._new_slots().items():
                    self._slots.setdefault(number, Counter()).update(slot)
                    if shared is not None:
                        self._unshared.setdefault(number, Counter()).update(slot)
                oldest = self._window()[0]
                for slots in (self._slots, self._unshared):
                    for number in [number for number in slots if number < oldest]:
                        del slots[number]
                timeouts = self._timeouts - self._shared_timeouts
            if shared is not None and (self._unshared or timeouts):
                # If this fails it is all still here for the next time.
                shared.add(self._unshared, timeouts)
                self._unshared.clear()
                self._shared_timeouts += timeouts

    def _new_slots(self) -> dict[int, Slot]:
        slots: dict[int, Slot] = {}
        for _ in range(len(self._answers)):
            number, seconds = self._answers.popleft()
            slot = slots.setdefault(number, Counter())
            slot[str(_bucket(seconds))] += 1
            slot[MICROSECONDS] += int(seconds * 1e6)
        return slots

    def _window(self) -> range:
        now = int(self._clock() // SLOT_SECONDS)
        return range(now - WINDOW_SECONDS // SLOT_SECONDS, now + 1)

    def _shared_slots(self) -> SharedSlots | None:
        with self._mine():
            if not self._has_looked:
                self._has_looked = True
                settings = self._service.settings
                if settings.redis_url:
                    try:
                        from mainstay.rpc.redis_streams.statistics import SharedSlots
                    except MissingExtra:  # nobody else here needs it either
                        return None
                    keys = f"mainstay:calls:{settings.service_name}"
                    self._shared = SharedSlots(str(settings.redis_url), keys)
            return self._shared


def summary(slots: Iterable[Slot]) -> Latency:
    """Return what the counts of some slots say together."""
    total: Counter[str] = Counter()
    for slot in slots:
        total.update(slot)
    microseconds = total.pop(MICROSECONDS, 0)
    buckets = sorted((int(bucket), count) for bucket, count in total.items() if count > 0)
    count = sum(number for _, number in buckets)
    if count == 0:
        return {"count": 0, "avg": None, "p50": None, "p95": None}
    return {
        "count": count,
        "avg": round(microseconds / count / 1e6, 6),
        "p50": _quantile(buckets, count, 0.50),
        "p95": _quantile(buckets, count, 0.95),
    }


def _bucket(seconds: float) -> int:
    if seconds <= _SMALLEST_SECONDS:
        return 0
    return min(int(math.log2(seconds / _SMALLEST_SECONDS) * _PER_OCTAVE), _LAST_BUCKET)


def _quantile(buckets: list[tuple[int, int]], count: int, fraction: float) -> float:
    wanted, seen, found = math.ceil(fraction * count), 0, 0
    for bucket, number in buckets:
        seen += number
        if seen >= wanted:
            found = bucket
            break
    middle: float = _SMALLEST_SECONDS * 2 ** ((found + 0.5) / _PER_OCTAVE)
    return round(middle, 6)
