"""How much does a process do, and how long does it take? Prometheus instruments, counted cheaply.

Instruments are made on first use, so importing costs nothing and a fork loses nothing. The child
for each set of labels is bound once; what can come from outside is bounded before it is a label.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from mainstay import forks, otlp
from mainstay.metrics import processes
from mainstay.metrics.batch import Batch

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from mainstay.config import Settings
    from mainstay.metrics.instruments import Instruments
    from mainstay.metrics.pusher import Pusher

__all__ = ["CONTENT_TYPE", "BreakerState", "Metrics", "processes"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BreakerState = Literal["closed", "half-open", "open"]

_logger = logging.getLogger(__name__)

_METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "WEBSOCKET"}
)
_BREAKER_STATES: dict[str, int] = {"closed": 0, "half-open": 1, "open": 2}
# More sets of labels than any service has on purpose: what comes after is "other".
_MOST_CHILDREN = 2_000
_COMPLETED_EVERY_SECONDS = 0.5


class Metrics:
    """Counts for one process, and answers for all processes of the service on this machine.

    Args:
        settings: Version, commit and environment; ``metrics_enabled`` turns counting off.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._version = settings.version
        self._commit = settings.commit
        self._env = str(settings.env)
        self._is_on = settings.metrics_enabled
        self._lock = threading.RLock()
        self._instruments: Instruments | None = None
        self._collectors: list[Callable[[], None]] = []
        self._completed_at = 0.0
        self._pusher: Pusher | None = None
        self._pusher_pid = 0
        self._requests: dict[tuple[str, str, int], Callable[[float], None]] = {}
        self._observers: dict[tuple[str, ...], Callable[[float], None]] = {}
        self._batches: list[Batch] = []

    @property
    def registry(self) -> CollectorRegistry:
        """For instruments of one's own: ``Counter("cards_charged", "…", registry=…)``."""
        return self._made.registry

    def up(self) -> None:
        """Say that the process runs, and which build of the service it is.

        From then on the numbers are also sent to a collector, where the environment names one.
        """
        if self._is_on:
            self._made.up.set(1)
            self._made.build_info.labels(self._version, self._commit, self._env).set(1)
            if otlp.is_sent("metrics"):
                self._push()

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered.

        Args:
            method: As it came; what is no known method is "other".
            status: The status code.
            route: The route's template, never the path: one label for whatever matched nothing.
            seconds: From its first byte to the end of the answer.
        """
        if not self._is_on:
            return
        observe = self._requests.get((method, route, status))
        if observe is None:
            observe = self._bind_request(method, route, status)
        observe(seconds)
        if status < 500:
            self._note_completed()

    def task(self, name: str, outcome: str, seconds: float) -> None:
        """Count a task that ended."""
        self._observe("task", (name, outcome), seconds)

    def call(
        self, side: Literal["client", "server"], queue: str, outcome: str, seconds: float
    ) -> None:
        """Count a call that ended, on either side."""
        self._observe("call", (side, queue, outcome), seconds)

    def event(self, type: str, outcome: str, seconds: float) -> None:
        """Count an event that was handled."""
        self._observe("event", (type, outcome), seconds)

    def iteration(self, outcome: str, seconds: float) -> None:
        """Count a turn of a loop."""
        if self._is_on:
            self._made.iterations.inc()
        self._observe("iteration", (outcome,), seconds)

    def completed(self) -> None:
        """Stamp the time of the last unit of work that was completed."""
        if self._is_on:
            self._completed_at = time.time()
            self._made.last_iteration.set(self._completed_at)

    def dead_letter(self, queue: str) -> None:
        """Count a message that was put among the dead letters of *queue*."""
        if self._is_on:
            self._made.dead_lettered.labels(queue).inc()

    def log_lines_dropped(self, lines: int) -> None:
        """Count lines of the log that nobody read in time."""
        if self._is_on:
            self._made.log_lines_dropped.inc(lines)

    def redelivered(self) -> None:
        """Count a message that came again."""
        if self._is_on:
            self._made.redeliveries.inc()

    def late_reply(self) -> None:
        """Count an answer to a call whose caller had given up."""
        if self._is_on:
            self._made.late_replies.inc()

    def breaker(self, name: str, state: BreakerState) -> None:
        """Show the state of a circuit breaker: 0 closed, 1 half-open, 2 open."""
        if self._is_on:
            self._made.breaker_state.labels(name).set(_BREAKER_STATES[state])

    def queue(
        self,
        queue: str,
        *,
        states: Mapping[str, int],
        oldest_seconds: float | None = None,
        dead_letters: int | None = None,
    ) -> None:
        """Show what is in a queue; meant for a callback of :meth:`on_scrape`.

        Args:
            queue: Its name.
            states: Messages by state, such as ``ready`` and ``unacknowledged``.
            oldest_seconds: How long the oldest message has waited; ``None`` where unknown.
            dead_letters: Messages in its dead-letter queue; ``None`` where unknown.
        """
        if not self._is_on:
            return
        for state, messages in states.items():
            self._made.queue_messages.labels(queue, state).set(messages)
        if oldest_seconds is not None:
            self._made.queue_oldest.labels(queue).set(oldest_seconds)
        if dead_letters is not None:
            self._made.dead_letters.labels(queue).set(dead_letters)

    def outbox(self, kind: str, *, states: Mapping[str, int], oldest_seconds: float) -> None:
        """Show what waits in the service's outbox; meant for a callback of :meth:`on_scrape`.

        Args:
            kind: ``task`` or ``event``.
            states: Messages by state: ``ready`` and ``scheduled``.
            oldest_seconds: How long the oldest that is ready has waited.
        """
        if not self._is_on:
            return
        for state, messages in states.items():
            self._made.outbox_messages.labels(kind, state).set(messages)
        self._made.outbox_oldest.labels(kind).set(oldest_seconds)

    def lost(self, tasks: int) -> None:
        """Show how many tasks are lost; meant for a callback of :meth:`on_scrape`."""
        if self._is_on:
            self._made.lost.set(tasks)

    def on_scrape(self, collect: Callable[[], None]) -> None:
        """Call *collect* before each answer, on the thread that answers; it may take a moment."""
        self._collectors.append(collect)

    def exposition(self) -> tuple[bytes, str]:
        """Return the answer of `/metrics` and its content type.

        Reads files and asks what was registered with :meth:`on_scrape`: some milliseconds, so
        not on an event loop.
        """
        with forks.work():
            from mainstay.metrics.instruments import as_text

            return as_text(self.collect()), CONTENT_TYPE

    def collect(self) -> list[Metric]:
        """Return every metric of the service, of all its processes."""
        if not self._is_on:
            return []
        for collect in self._collectors:
            try:
                collect()
            except Exception as error:  # noqa: BLE001 - one that is down must not hide the others
                _logger.warning("a metric could not be read: %s", type(error).__name__)
        for batch in list(self._batches):
            batch.count()
        return self._made.collect()

    def close(self) -> None:
        """Send a collector the last numbers, within two seconds. Can be called twice."""
        pusher, self._pusher = self._pusher, None
        atexit.unregister(self.close)
        if pusher is not None and self._pusher_pid == os.getpid():
            pusher.close()

    def _push(self) -> None:
        if self._pusher is not None and self._pusher_pid == os.getpid():
            return
        self._pusher = otlp.opened("metrics", self._open_pusher)
        self._pusher_pid = os.getpid()

    def _open_pusher(self) -> Pusher:
        from mainstay.metrics.pusher import Pusher

        made = Pusher(self._settings, self.collect, directory=self._made.directory)
        # A process that is not stopped by the book sends its last numbers all the same.
        atexit.register(self.close)
        return made

    @property
    def _made(self) -> Instruments:
        made = self._instruments
        if made is None:
            with self._lock:
                if self._instruments is None:
                    from mainstay.metrics.instruments import Instruments

                    self._instruments = Instruments()
                made = self._instruments
        return made

    def _bind_request(self, method: str, route: str, status: int) -> Callable[[float], None]:
        with self._lock:
            seconds = self._made.request_seconds
            if len(self._requests) >= _MOST_CHILDREN:
                return seconds.labels("other", "other", status).observe
            if method not in _METHODS:  # else anybody could fill the table with names of their own
                return seconds.labels("other", route, status).observe
            observe = self._cheaply(seconds.labels(method, route, status).observe)
            self._requests[method, route, status] = observe
            return observe

    def _cheaply(self, observe: Callable[[float], None]) -> Callable[[float], None]:
        # Files are for what must not be lost when a process dies: nothing may wait there.
        if self._made.directory is not None:
            return observe
        batch = Batch(observe)
        self._batches.append(batch)
        return batch.add

    def _observe(self, kind: str, labels: tuple[str, ...], seconds: float) -> None:
        if not self._is_on:
            return
        observe = self._observers.get((kind, *labels))
        if observe is None:
            with self._lock:
                histogram = self._made.histograms[kind]
                if len(self._observers) >= _MOST_CHILDREN:
                    observe = histogram.labels(*("other" for _ in labels)).observe
                else:
                    observe = self._cheaply(histogram.labels(*labels).observe)
                    self._observers[kind, *labels] = observe
        observe(seconds)
        if labels[-1] == "done":
            self._note_completed()

    def _note_completed(self) -> None:
        # Twice a second is as good as always, and much cheaper with files.
        if time.time() - self._completed_at >= _COMPLETED_EVERY_SECONDS:
            self.completed()
