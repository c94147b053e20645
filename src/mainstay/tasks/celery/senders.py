"""Threads that wait for the broker, so that an event loop need not."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mainstay import forks
from mainstay.errors import Overloaded

__all__ = ["SENDERS_LIMIT", "SENDER_THREADS", "Senders"]

T = TypeVar("T")

SENDER_THREADS = 8
SENDERS_LIMIT = 512


class Senders:
    """The threads of one application; made in the process that uses them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._generation = forks.generation()
        self._threads: ThreadPoolExecutor | None = None
        self._waiting = 0

    async def do(self, call: Callable[[], T]) -> T:
        self._mind_fork()
        if self._waiting >= SENDERS_LIMIT:
            raise Overloaded(
                f"{SENDERS_LIMIT} tasks of this process wait for the broker: it takes them too "
                "slowly"
            )
        self._waiting += 1
        try:
            context = contextvars.copy_context()
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._here(), context.run, call)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._mind_fork()
        with self._lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False)

    def _here(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(SENDER_THREADS, thread_name_prefix="senders")
            return self._threads

    def _mind_fork(self) -> None:
        # What waited in the parent waits there, and its lock may stay held for ever.
        if self._generation != forks.generation():
            self._lock, self._threads, self._waiting = threading.Lock(), None, 0
            self._generation = forks.generation()
