"""Who does the work of a server: a few threads for plain functions, a loop for `async` ones.

Neither is the thread that talks to the broker, so heartbeats go on whatever a handler does.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine

from mainstay.rpc.intake import Delivery

__all__ = ["Loop", "Threads"]


class Threads:
    """*count* threads that *work* at what is given to them, in its order.

    One is woken at a time, the one that fell asleep last, and wakes the next if there is more: so
    a handler that waits holds up nobody, and a burst of quick ones does not wake them all.
    """

    def __init__(self, count: int, work: Callable[[Delivery], object]) -> None:
        self._work = work
        self._waiting: deque[Delivery | None] = deque()
        self._asleep: list[threading.Lock] = []
        self._is_one_waking = False
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, name=f"call-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def give(self, delivery: Delivery) -> None:
        with self._lock:
            self._waiting.append(delivery)
            self._wake_one()

    def close(self) -> None:
        """Let the threads go when they are done; one that hangs is not waited for."""
        with self._lock:
            self._waiting.extend([None] * len(self._threads))
            self._wake_one()

    def _run(self) -> None:
        bell = threading.Lock()
        bell.acquire()
        while (delivery := self._take(bell)) is not None:
            self._work(delivery)

    def _take(self, bell: threading.Lock) -> Delivery | None:
        self._lock.acquire()
        while not self._waiting:
            self._asleep.append(bell)
            self._lock.release()
            bell.acquire()
            self._lock.acquire()
            self._is_one_waking = False
        delivery = self._waiting.popleft()
        if self._waiting:
            self._wake_one()
        self._lock.release()
        return delivery

    def _wake_one(self) -> None:
        if self._asleep and not self._is_one_waking:
            self._is_one_waking = True
            self._asleep.pop().release()


class Loop:
    """An event loop on a thread of its own that *works* at what is given to it, all at once."""

    def __init__(self, work: Callable[[Delivery], Coroutine[object, object, object]]) -> None:
        self._work = work
        self._waiting: deque[Delivery] = deque()
        self._is_awake = False
        self._tasks: set[asyncio.Task[object]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="calls-loop", daemon=True)
        self._thread.start()

    def give(self, delivery: Delivery) -> None:
        self._waiting.append(delivery)
        if not self._is_awake:
            self._is_awake = True
            self._loop.call_soon_threadsafe(self._begin)

    def close(self) -> None:
        """Cancel what still runs, and end the loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2.0)

    def _begin(self) -> None:
        self._is_awake = False  # before looking, or a delivery may be left lying
        while self._waiting:
            task = self._loop.create_task(self._work(self._waiting.popleft()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _run(self) -> None:
        self._loop.run_forever()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            self._loop.run_until_complete(asyncio.wait(self._tasks, timeout=1.0))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()
