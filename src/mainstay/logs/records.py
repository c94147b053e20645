"""Lines as OpenTelemetry has them, and its exporter.

This module imports OpenTelemetry's SDK; it is imported when logs are sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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

__all__ = ["Exporter"]

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


class Exporter:
    """Sends records of lines to a collector, as OpenTelemetry has them.

    Args:
        settings: Under whose name lines are sent.
        exporter: Where to, instead of the collector that the environment names.
    """

    def __init__(self, settings: Settings, exporter: LogRecordExporter | None = None) -> None:
        self._resource = otlp.resource(settings)
        self._exporter = exporter or OTLPLogExporter()

    def export(self, lines: Iterable[tuple[int, Mapping[str, object]]]) -> None:
        """Send *lines*: when each was taken, in nanoseconds since 1970, and its record."""
        # Or an author's instrumentation of HTTP clients would trace the sending of logs.
        token = otel_contexts.attach(otel_contexts.set_value("suppress_instrumentation", True))
        try:
            self._exporter.export([self._readable(*line) for line in lines])
        finally:
            otel_contexts.detach(token)

    def shutdown(self) -> None:
        """End the pause before the next attempt, not an attempt that runs."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # theirs is not annotated

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
