"""How are spans made and sent? With OpenTelemetry's SDK, under the ids of our own context.

This is the only module of traces that imports the SDK; it is imported when tracing is on.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry import context as otel_contexts
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from mainstay import otlp
from mainstay.errors import Refuse
from mainstay.texts import text_of

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context as OtelContext
    from opentelemetry.sdk.trace.export import SpanExporter

    from mainstay.config import Settings
    from mainstay.context import Context
    from mainstay.logs.redaction import Redaction
    from mainstay.traces import SpanKind

__all__ = ["RecordedSpan", "Recorder"]

_KINDS = {
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
    "producer": trace.SpanKind.PRODUCER,
    "consumer": trace.SpanKind.CONSUMER,
    "internal": trace.SpanKind.INTERNAL,
}
_PRIMITIVES = (str, bool, int, float)


class Recorder:
    """Makes spans and sends them in batches from a thread of its own.

    The provider is our own. When nobody else has set a global one it becomes that too, so that
    the spans an author makes with OpenTelemetry's API are sent the same way; either way they
    nest under ours, because each of our spans is attached to OpenTelemetry's context.
    """

    def __init__(
        self, settings: Settings, redaction: Redaction, *, exporter: SpanExporter | None = None
    ) -> None:
        self._redaction = redaction
        self._ids = _Ids()
        self._provider = TracerProvider(
            resource=otlp.resource(settings),
            id_generator=self._ids,
            shutdown_on_exit=False,  # it would wait half a minute for a collector that is down
        )
        self._exporter = exporter or OTLPSpanExporter()
        self._processor = BatchSpanProcessor(self._exporter)
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("mainstay")
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            trace.set_tracer_provider(self._provider)

    def unit(
        self,
        name: str,
        kind: SpanKind,
        context: Context,
        attributes: Mapping[str, object] | None,
    ) -> RecordedSpan:
        """Begin the span of a unit of work, whose ids *context* has already."""
        parent = otel_contexts.Context()
        if context.parent_id:
            parent = _remote_parent(context, parent)
        self._ids.drawn = (int(context.trace_id, 16), int(context.span_id, 16))
        span = self._tracer.start_span(name, parent, _KINDS[kind])
        self._ids.drawn = None
        is_sampled = span.get_span_context().trace_flags.sampled
        if is_sampled != context.sampled:
            context = context._replace(sampled=is_sampled)
        return self._current(span, context, parent, attributes)

    def within(
        self,
        name: str,
        kind: SpanKind,
        context: Context,
        attributes: Mapping[str, object] | None,
    ) -> RecordedSpan:
        """Begin a span inside *context*, below the author's own span where there is one."""
        parent = otel_contexts.get_current()
        around = trace.get_current_span(parent).get_span_context()
        if not around.is_valid or around.trace_id != int(context.trace_id, 16):
            this = context._replace(parent_id=context.span_id)
            parent = _remote_parent(this, otel_contexts.Context())
        span = self._tracer.start_span(name, parent, _KINDS[kind])
        made = span.get_span_context()
        child = context._replace(
            span_id=format(made.span_id, "016x"),
            parent_id=context.span_id,
            sampled=made.trace_flags.sampled,
        )
        return self._current(span, child, parent, attributes)

    def _current(
        self,
        span: trace.Span,
        context: Context,
        parent: OtelContext,
        attributes: Mapping[str, object] | None,
    ) -> RecordedSpan:
        recorded = RecordedSpan(span, context, self._redaction, parent)
        if attributes is not None:
            for key, value in attributes.items():
                recorded.set(key, value)
        return recorded

    def close(self) -> None:
        """Send what is left, for two seconds at most."""
        # The public shutdown() waits for half a minute when the collector is down, and a thread
        # to wait for it in cannot be started while the interpreter exits.
        batches = getattr(self._processor, "_batch_processor", None)
        if batches is not None:
            batches.shutdown(timeout_millis=int(otlp.CLOSE_SECONDS * 1000))
        else:
            self._provider.shutdown()


class RecordedSpan:
    """A span under way; current for the author's own spans until it ends."""

    __slots__ = ("_redaction", "_span", "_token", "context")

    def __init__(
        self,
        span: trace.Span,
        context: Context,
        redaction: Redaction,
        parent: OtelContext,
    ) -> None:
        self.context = context
        self._span = span
        self._redaction = redaction
        self._token: Token[OtelContext] | None = otel_contexts.attach(
            trace.set_span_in_context(span, parent)
        )

    def set(self, key: str, value: object) -> None:
        """Note a fact; what is no text, number or truth value is noted as text."""
        if value is None or not self._span.is_recording():
            return
        shown = self._redaction.value(key, value)
        self._span.set_attribute(key, shown if isinstance(shown, _PRIMITIVES) else str(shown))

    def end(self, name: str, outcome: str, error: BaseException | None) -> None:
        """End it under its final name; a second time changes nothing."""
        if self._token is None:
            return
        if self._span.is_recording():
            self._span.update_name(name)
            self._span.set_attribute("mainstay.outcome", outcome)
            if error is not None:
                self._note(error)
        self._span.end()
        token, self._token = self._token, None
        otel_contexts.detach(token)

    def _note(self, error: BaseException) -> None:
        kind = type(error).__qualname__
        self._span.set_attribute("error.type", kind)
        # Not the SDK's record_exception: it would send the message and the stack as they are.
        self._span.add_event(
            "exception",
            {"exception.type": kind, "exception.message": self._redaction.text(text_of(error))},
        )
        if not isinstance(error, Refuse):  # the caller's fault is no fault of ours
            self._span.set_status(Status(StatusCode.ERROR, kind))


class _Ids(RandomIdGenerator):
    """Gives the ids that the context drew already, so that log lines and headers match."""

    def __init__(self) -> None:
        self._local = threading.local()

    @property
    def drawn(self) -> tuple[int, int] | None:
        ids: tuple[int, int] | None = getattr(self._local, "drawn", None)
        return ids

    @drawn.setter
    def drawn(self, ids: tuple[int, int] | None) -> None:
        self._local.drawn = ids

    def generate_trace_id(self) -> int:
        drawn = self.drawn
        return drawn[0] if drawn is not None else super().generate_trace_id()

    def generate_span_id(self) -> int:
        drawn = self.drawn
        return drawn[1] if drawn is not None else super().generate_span_id()


def _remote_parent(context: Context, around: OtelContext) -> OtelContext:
    state = TraceState.from_header([context.tracestate]) if context.tracestate else None
    return trace.set_span_in_context(
        NonRecordingSpan(
            SpanContext(
                int(context.trace_id, 16),
                int(context.parent_id, 16),
                is_remote=True,
                trace_flags=TraceFlags(TraceFlags.SAMPLED if context.sampled else 0),
                trace_state=state,
            )
        ),
        around,
    )
