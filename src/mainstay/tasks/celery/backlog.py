"""Does the worker take what waits for it?

A worker can be connected and take nothing, for ever, and answer every question about itself: seen
after restarts of a broker. So its queues are looked into: where messages wait, somebody is free,
and nothing was taken since the last look, the pulse ``backlog`` does not beat.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from celery.worker import state as worker_state

from mainstay import forks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mainstay.tasks.celery.app import App
    from mainstay.tasks.celery.depths import Depth, Depths

__all__ = ["Backlog"]

LOOK_SECONDS = 5.0
IDLE_LIMIT_SECONDS = 30.0


class Backlog:
    """The queues of one worker, looked into by a thread.

    Args:
        queues: Their names.
        depths: What looks into them; ``None`` for a broker in memory.
    """

    def __init__(self, app: App, queues: list[str], depths: Depths | None) -> None:
        self._app = app
        self._queues = queues
        self._depths = depths
        self._found: Mapping[str, Depth] = {}
        self._found_at = 0.0
        self._taken = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="backlog", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._ended.set()
        self._app.service.lifecycle.end_pulse("backlog")

    def show(self) -> None:
        """Put what was found last into the metrics."""
        if time.monotonic() - self._found_at > 3 * LOOK_SECONDS:
            return  # the broker does not answer: old numbers would be wrong ones
        for queue, depth in self._found.items():
            states = {"ready": depth.ready}
            if depth.unacknowledged is not None:
                states["unacknowledged"] = depth.unacknowledged
            self._app.service.metrics.queue(
                queue,
                states=states,
                oldest_seconds=depth.oldest_seconds,
                dead_letters=depth.dead,
            )

    def look(self) -> bool:
        """Look once; says whether work is taken, as far as one can tell."""
        try:
            with forks.work():
                self._found = {} if self._depths is None else self._depths.look(self._queues)
            self._found_at = time.monotonic()
        except Exception:  # noqa: BLE001 - a broker that is down is nothing the worker can mend
            return True
        taken = sum(worker_state.total_count.values())
        moved, self._taken = taken != self._taken, taken
        waiting = any(depth.ready for depth in self._found.values())
        return moved or not waiting or not self._app.worker.is_taking

    def _run(self) -> None:
        pulse = self._app.service.lifecycle.pulse("backlog", limit_seconds=IDLE_LIMIT_SECONDS)
        while True:
            if self.look():
                pulse.beat()
            if self._ended.wait(LOOK_SECONDS):
                break
        if self._depths is not None:
            self._depths.close()
