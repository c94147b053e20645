"""Lines go to a collector in batches, from a thread, and never at the cost of the work.

That thread sets OpenTelemetry up, which logs meanwhile, from threads of its own too: whoever waited
for it, and held a lock that a line needs, would wait for ever.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from mainstay import otlp

if TYPE_CHECKING:
    from opentelemetry.sdk._logs.export import LogRecordExporter

    from mainstay.config import Settings
    from mainstay.logs.records import Exporter

__all__ = ["Sender"]

_logger = logging.getLogger("mainstay.telemetry")

# The defaults of OpenTelemetry's batch processor.
_QUEUE_LINES = 2_048
_BATCH_LINES = 512
_EVERY_SECONDS = 1.0
_SHUTDOWN_SECONDS = 1.0


class Sender:
    """Takes lines and sends them later; when the collector is slow, lines are dropped and counted.

    Args:
        settings: Under whose name lines are sent.
        exporter: Where to, instead of the collector that the environment names.
    """

    def __init__(self, settings: Settings, *, exporter: LogRecordExporter | None = None) -> None:
        self._settings = settings
        self._given = exporter
        self._exporter: Exporter | None = None
        self._queue: deque[tuple[int, Mapping[str, object]]] = deque()
        self._wake = threading.Event()
        self._closed = False
        self.has_failed = False
        """Could it not be set up? It then takes no line."""
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="otlp-logs", daemon=True)
        self._thread.start()

    def take(self, record: Mapping[str, object]) -> None:
        """Queue a line; never waits."""
        # What the exporter says of itself would come back to it for ever.
        if str(record["logger"]).startswith(("opentelemetry", "urllib3", "requests")):
            return
        if self.has_failed:
            return
        if len(self._queue) >= _QUEUE_LINES:
            self.dropped += 1
            return
        self._queue.append((time.time_ns(), record))
        if len(self._queue) >= _BATCH_LINES:
            self._wake.set()

    def close(self) -> None:
        """Send what is left for two seconds; what remains then is dropped.

        An attempt that is running then is waited for a second longer.
        """
        self._closed = True
        self._wake.set()
        self._thread.join(otlp.CLOSE_SECONDS)
        self._queue.clear()
        if self._exporter is not None:
            self._exporter.shutdown()
        self._thread.join(_SHUTDOWN_SECONDS)

    def _run(self) -> None:
        exporter = self._exporter = otlp.opened("logs", self._open)
        if exporter is None:
            self.has_failed = True
            self._queue.clear()
            return
        reported = 0
        while True:
            if not self._closed:
                self._wake.wait(_EVERY_SECONDS)
            self._wake.clear()
            is_last = self._closed
            self._send(exporter)
            if is_last:
                return
            # Not after close: the process ends, and its output may be closed already.
            if self.dropped != reported and not self._closed:
                _logger.warning(
                    "the collector is too slow: %d log lines were not sent to it (they are on "
                    "standard output)",
                    self.dropped - reported,
                )
                reported = self.dropped

    def _open(self) -> Exporter:
        from mainstay.logs.records import Exporter

        return Exporter(self._settings, self._given)

    def _send(self, exporter: Exporter) -> None:
        while batch := self._batch():
            exporter.export(batch)

    def _batch(self) -> list[tuple[int, Mapping[str, object]]]:
        batch: list[tuple[int, Mapping[str, object]]] = []
        with suppress(IndexError):  # the end of the queue
            while len(batch) < _BATCH_LINES:
                batch.append(self._queue.popleft())
        return batch
