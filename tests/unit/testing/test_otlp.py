"""Telemetry as the OpenTelemetry SDK sends it."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from mainstay.testing.otlp import OtlpReceiver, attributes
from tests.waiting import PATIENCE_SECONDS


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_spans_are_collected_with_the_service_they_came_from(
    otlp: OtlpReceiver, compression: Compression
) -> None:
    provider = TracerProvider(resource=Resource({"service.name": "orders"}))
    exporter = OTLPSpanExporter(f"{otlp.endpoint}/v1/traces", compression=compression)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("test").start_as_current_span("charge", attributes={"retries": 2}):
        pass
    provider.shutdown()

    (span,) = otlp.spans_of("orders")
    assert span.name == "charge"
    assert attributes(span.attributes) == {"retries": 2}
    assert otlp.spans == [span]
    assert otlp.spans_of("payments") == []


def test_metrics_are_collected(otlp: OtlpReceiver) -> None:
    exporter = OTLPMetricExporter(f"{otlp.endpoint}/v1/metrics")
    provider = MeterProvider(metric_readers=[PeriodicExportingMetricReader(exporter)])
    provider.get_meter("test").create_counter("orders").add(3)
    provider.shutdown()

    assert [metric.name for metric in otlp.metrics] == ["orders"]


def test_what_came_can_be_forgotten(otlp: OtlpReceiver) -> None:
    assert post(f"{otlp.endpoint}/v1/logs", b"") == 200
    assert len(otlp.requests) == 1
    otlp.clear()
    assert otlp.requests == []
    assert otlp.logs == []


@pytest.mark.parametrize(("path", "status"), [("/v1/traces", 400), ("/v1/profiles", 404)])
def test_what_is_not_telemetry_is_refused(otlp: OtlpReceiver, path: str, status: int) -> None:
    assert post(f"{otlp.endpoint}{path}", b"\xff\xff\xff") == status
    assert otlp.requests == []


def post(url: str, body: bytes) -> int:
    request = urllib.request.Request(url, data=body, method="POST")  # noqa: S310 - our own URL
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:  # noqa: S310 - likewise
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
