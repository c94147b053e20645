"""How do lines reach a collector? In batches, from a thread, and never at the cost of the work.

This module imports OpenTelemetry's SDK; it is imported when logs are sent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from opentelemetry import context as otel_contexts
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from mainstay import otlp

if TYPE_CHECKING:
    from opentelemetry.sdk._logs.export import LogRecordExporter

    from mainstay.config import Settings

__all__ = ["Sender"]

_logger = logging.getLogger("mainstay.telemetry")

# The defaults of OpenTelemetry's batch processor.
_QUEUE_LINES = 2_048
_BATCH_LINES = 512
_EVERY_SECONDS = 1.0
_SHUTDOWN_SECONDS = 1.0

_SEVERITIES = {
    "debug": SeverityNumber.DEBUG,
    "info": SeverityNumber.INFO,
    "warning": SeverityNumber.WARN,
    "error": SeverityNumber.ERROR,
    "critical": SeverityNumber.FATAL,
}
# Said by the resource and the record itself.
_SAID_ELSEWHERE = frozenset(
    {"ts", "level", "service", "logger", "instance", "env", "msg", "trace_id", "span_id"}
)
_SEMANTIC_NAMES = {
    "event": "event.name",
    "exception_type": "exception.type",
    "stack": "exception.stacktrace",
    "user": "enduser.id",
}


class Sender:
    """Takes lines and sends them later; when the collector is slow, lines are dropped and counted.

    Args:
        settings: Under whose name lines are sent.
        exporter: Where to, instead of the collector that the environment names.
    """

    def __init__(self, settings: Settings, *, exporter: LogRecordExporter | None = None) -> None:
        self._resource = otlp.resource(settings)
        self._exporter = exporter or OTLPLogExporter()
        self._queue: deque[tuple[int, dict[str, object]]] = deque()
        self._wake = threading.Event()
        self._closed = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="otlp-logs", daemon=True)
        self._thread.start()

    def take(self, record: dict[str, object]) -> None:
        """Queue a line; never waits."""
        # What the exporter says of itself would come back to it for ever.
        if str(record["logger"]).startswith(("opentelemetry", "urllib3", "requests")):
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
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # theirs is not annotated
        # That ends the pause before the exporter's next attempt, not a running attempt.
        self._thread.join(_SHUTDOWN_SECONDS)

    def _run(self) -> None:
        # Or an author's instrumentation of HTTP clients would trace the sending of logs.
        otel_contexts.attach(otel_contexts.set_value("suppress_instrumentation", True))
        reported = 0
        while not self._closed:
            self._wake.wait(_EVERY_SECONDS)
            self._wake.clear()
            self._send()
            # Not after close: the process ends, and its output may be closed already.
            if self.dropped != reported and not self._closed:
                _logger.warning(
                    "the collector is too slow: %d log lines were not sent to it (they are on "
                    "standard output)",
                    self.dropped - reported,
                )
                reported = self.dropped

    def _send(self) -> None:
        while batch := self._batch():
            self._exporter.export(batch)

    def _batch(self) -> list[ReadableLogRecord]:
        batch: list[ReadableLogRecord] = []
        with suppress(IndexError):  # the end of the queue
            while len(batch) < _BATCH_LINES:
                batch.append(self._readable(*self._queue.popleft()))
        return batch

    def _readable(self, observed_ns: int, record: Mapping[str, object]) -> ReadableLogRecord:
        level = str(record["level"])
        written = datetime.fromisoformat(str(record["ts"]))
        attributes = {
            _SEMANTIC_NAMES.get(key, key): value
            if isinstance(value, (str, bool, int, float))
            else str(value)
            for key, value in record.items()
            if key not in _SAID_ELSEWHERE and value is not None
        }
        return ReadableLogRecord(
            LogRecord(
                timestamp=int(written.timestamp() * 1_000_000_000),
                observed_timestamp=observed_ns,
                context=_trace_of(record),
                severity_text=level.upper(),
                severity_number=_SEVERITIES.get(level, SeverityNumber.UNSPECIFIED),
                body=str(record["msg"]),
                attributes=attributes,
            ),
            self._resource,
            InstrumentationScope(str(record["logger"])),
        )


def _trace_of(record: Mapping[str, object]) -> Context | None:
    trace_id, span_id = record.get("trace_id"), record.get("span_id")
    if not isinstance(trace_id, str) or not isinstance(span_id, str):
        return None
    span = SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(1)
    )
    return trace.set_span_in_context(NonRecordingSpan(span), Context())
