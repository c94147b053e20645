"""Spans over OTLP, as OpenTelemetry's documentation sets them up."""

from __future__ import annotations

from fastapi import FastAPI
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

__all__ = ["instrument", "provider"]


def provider() -> TracerProvider:
    made = TracerProvider()
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return made


def instrument(app: FastAPI) -> None:
    """Let OpenTelemetry's own package make the spans of *app*."""
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider())
