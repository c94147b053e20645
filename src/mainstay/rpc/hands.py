"""Who does the work of a server: a few threads for plain functions, a loop for `async` ones.

Neither is the thread that talks to the broker, so heartbeats go on whatever a handler does.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from queue import SimpleQueue

from mainstay.rpc.intake import Delivery

__all__ = ["Loop", "Threads"]


class Threads:
    """*count* threads that *work* at what is given to them, in its order."""

    def __init__(self, count: int, work: Callable[[Delivery], object]) -> None:
        self._work = work
        self._waiting: SimpleQueue[Delivery | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"call-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def give(self, delivery: Delivery) -> None:
        self._waiting.put(delivery)

    def close(self) -> None:
        """Let the threads go when they are done; one that hangs is not waited for."""
        for _ in self._threads:
            self._waiting.put(None)

    def _run(self) -> None:
        while (delivery := self._waiting.get()) is not None:
            self._work(delivery)


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
