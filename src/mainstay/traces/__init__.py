"""Where did the time of one request go, across processes? OpenTelemetry's spans, or nothing.

Off, a unit of work costs one comparison and makes no object. On is what sets
``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``); sampling and resource
attributes are read from OpenTelemetry's own variables.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol

from mainstay import context as contexts
from mainstay import otlp
from mainstay.context import Context
from mainstay.logs.redaction import Redaction

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from mainstay.config import Settings
    from mainstay.traces.spans import Recorder

__all__ = ["Span", "SpanKind", "Traces"]

SpanKind = Literal["server", "client", "producer", "consumer", "internal"]


class Span(Protocol):
    """One span under way; made by :meth:`Traces.start`."""

    context: Context
    """What is to be current while it runs, and travels to whoever is called from it."""

    def set(self, key: str, value: object) -> None:
        """Note a fact on the span."""

    def end(self, name: str, outcome: str, error: BaseException | None) -> None:
        """End it under the name that is known by then."""


class Traces:
    """The spans of one process.

    Args:
        settings: Under whose name they are sent. Their secrets are masked.
        exporter: Where spans go, instead of the collector that the environment names.
    """

    def __init__(self, settings: Settings, *, exporter: SpanExporter | None = None) -> None:
        self._settings = settings
        self._exporter = exporter
        self.enabled = exporter is not None or otlp.is_sent("traces")
        self._recorder: Recorder | None = None
        self._pid = 0
        self._lock = threading.Lock()

    def start(
        self,
        name: str,
        *,
        kind: SpanKind,
        context: Context,
        attributes: Mapping[str, object] | None = None,
    ) -> Span | None:
        """Begin the span of a unit of work; ``None`` when tracing is off.

        Args:
            name: What the work is called as far as is known by now.
            kind: Whether it serves a caller, or a message.
            context: The one that came in: its ``span_id`` is this span's, its ``parent_id`` the
                caller's.
            attributes: Facts, by OpenTelemetry's names.
        """
        if not self.enabled:
            return None
        recorder = self._recording()
        return None if recorder is None else recorder.unit(name, kind, context, attributes)

    def client(
        self,
        name: str,
        *,
        kind: SpanKind = "client",
        attributes: Mapping[str, object] | None = None,
    ) -> _Inside:
        """Trace an outgoing call or message for a ``with`` block, which gets the context to send.

        That is the context of a span of its own, current inside the block; when tracing is off
        it is the context at hand.
        """
        context = contexts.current() or Context.new()
        recorder = self._recording() if self.enabled else None
        span = None if recorder is None else recorder.within(name, kind, context, attributes)
        return _Inside(name, context, span)

    def close(self) -> None:
        """Send what is left, for two seconds at most. Can be called twice, and used again."""
        with self._lock:
            recorder, self._recorder = self._recorder, None
        atexit.unregister(self.close)
        if recorder is not None and self._pid == os.getpid():
            recorder.close()

    def _recording(self) -> Recorder | None:
        recorder = self._recorder
        if recorder is not None and self._pid == os.getpid():
            return recorder
        with self._lock:
            if self._recorder is None or self._pid != os.getpid():
                # The thread that sends would not survive a fork: each process has its own.
                self._recorder = otlp.opened("traces", self._open)
                self._pid = os.getpid()
                if self._recorder is None:
                    self.enabled = False
            return self._recorder

    def _open(self) -> Recorder:
        from mainstay.traces.spans import Recorder

        redaction = Redaction()
        redaction.hide_all(self._settings)
        made = Recorder(self._settings, redaction, exporter=self._exporter)
        # A process that is not stopped by the book sends what it has all the same.
        atexit.register(self.close)
        return made


class _Inside:
    """The block around an outgoing call."""

    __slots__ = ("_context", "_name", "_span", "_token")

    def __init__(self, name: str, context: Context, span: Span | None) -> None:
        self._name = name
        self._context = context
        self._span = span
        self._token: Token[Context | None] | None = None

    def __enter__(self) -> Context:
        if self._span is None:
            return self._context
        self._token = contexts.activate(self._span.context)
        return self._span.context

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        stack: TracebackType | None,
    ) -> None:
        if self._span is None:
            return
        self._span.end(self._name, "done" if error is None else "failed", error)
        if self._token is not None:
            contexts.restore(self._token)
