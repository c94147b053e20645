"""The other end of `benchmarks.programs.worker`: does rounds when it is asked.

Needs nothing but the standard library, so that it runs in every environment.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping

__all__ = ["answer_rounds"]


def answer_rounds(do: Callable[[int], Mapping[str, float] | None]) -> None:
    """Call *do* with the number of units for each line on standard input; it raises where a reply
    is not right, and may return other figures of the round.

    An asyncio lane keeps its loop: ``with asyncio.Runner() as runner:
    answer_rounds(lambda units: runner.run(do(units)))``.
    """
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a library prints is no answer
    for line in sys.stdin:
        units = int(line)
        started = time.perf_counter()
        others = do(units) or {}
        told = {
            "units": units,
            "wall_seconds": time.perf_counter() - started,
            "others": dict(others),
        }
        print(json.dumps(told), file=answers, flush=True)
