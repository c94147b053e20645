"""What every caller of the rows about calls sends, and what it must hear; 1 KB as JSON.

Needs nothing but the standard library, so that it runs in every environment.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from benchmarks.lanes.asked import answer_rounds

__all__ = [
    "AT_A_TIME",
    "DATA",
    "QUEUE",
    "QUEUE_TYPE",
    "URL",
    "by_futures",
    "by_tasks",
    "by_threads",
    "check",
    "one_by_one",
    "play",
]

URL = os.environ.get("BENCH_URL", "")
QUEUE = os.environ.get("BENCH_QUEUE", "")
QUEUE_TYPE = os.environ.get("BENCH_QUEUE_TYPE", "classic")
AT_A_TIME = 64

DATA: Any = {
    "id": 12345,
    "customer": "somebody who buys things",
    "items": [{"sku": f"sku-{n:04}", "count": n, "price": n * 1.5} for n in range(20)],
    "note": "x" * 120,
}


class Waited(Protocol):
    """A call under way."""

    def result(self) -> Any: ...


def check(answer: Any) -> None:
    """Raise unless *answer* is what was sent."""
    if answer != DATA:
        raise ValueError(f"not what was sent: {str(answer)[:200]}")


def one_by_one(call: Callable[[Any], Any], units: int) -> None:
    for _ in range(units):
        check(call(DATA))


def by_futures(submit: Callable[[Any], Waited], units: int) -> None:
    """Keep 64 calls under way from one thread."""
    under_way = deque(submit(DATA) for _ in range(min(units, AT_A_TIME)))
    for _ in range(units - len(under_way)):
        check(under_way.popleft().result())
        under_way.append(submit(DATA))
    for waited in under_way:
        check(waited.result())


def by_threads(call: Callable[[Any], Any], units: int) -> None:
    """Share the calls between 64 threads."""
    left, failures = deque(range(units)), deque[BaseException]()

    def work() -> None:
        try:
            while left:
                try:
                    left.popleft()
                except IndexError:
                    return
                check(call(DATA))
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work) for _ in range(AT_A_TIME)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


async def by_tasks(call: Callable[[Any], Awaitable[Any]], units: int, at_a_time: int) -> None:
    """Share the calls between tasks of one event loop."""
    left = iter(range(units))

    async def work() -> None:
        for _ in left:
            check(await call(DATA))

    await asyncio.gather(*(work() for _ in range(at_a_time)))


def play(serve: Callable[[], object], calls: Callable[[str], Callable[[int], None]]) -> None:
    """Be the part that the command line names: ``server``, or a caller of some mode.

    Args:
        serve: Serves for ever.
        calls: Given the mode; returns what does a round.
    """
    part = sys.argv[1]
    if part == "server":
        serve()
    else:
        answer_rounds(calls(part))
