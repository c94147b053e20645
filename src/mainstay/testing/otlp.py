"""What telemetry did a process send?

Needs ``opentelemetry-proto``: ``pip install 'mainstay[testing]'``.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from mainstay.extras import require

require("opentelemetry", extra="testing")

from google.protobuf.message import DecodeError, Message  # noqa: E402 - after the question above
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (  # noqa: E402 - likewise
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (  # noqa: E402 - likewise
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: E402 - likewise
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue  # noqa: E402 - likewise
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord  # noqa: E402 - likewise
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric  # noqa: E402 - likewise
from opentelemetry.proto.trace.v1.trace_pb2 import Span  # noqa: E402 - likewise

__all__ = ["OtlpReceiver", "attributes"]

_POLL_SECONDS = 0.02
_KINDS: dict[str, tuple[type[Message], type[Message]]] = {
    "/v1/traces": (ExportTraceServiceRequest, ExportTraceServiceResponse),
    "/v1/metrics": (ExportMetricsServiceRequest, ExportMetricsServiceResponse),
    "/v1/logs": (ExportLogsServiceRequest, ExportLogsServiceResponse),
}


class OtlpReceiver:
    """An OTLP collector for tests (HTTP with protobuf, gzip or not), in a thread, on loopback.

    Point a process at it with ``OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint``, poll with
    `mainstay.testing.wait.eventually`, and look at what came: `spans`, `metrics`, `logs`.
    """

    def __init__(self) -> None:
        self.requests: list[Message] = []
        """Whole export requests, in the order they came."""
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_for(self))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="otlp-receiver"
        )

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self._received()
            if isinstance(request, ExportTraceServiceRequest)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def metrics(self) -> list[Metric]:
        return [
            metric
            for request in self._received()
            if isinstance(request, ExportMetricsServiceRequest)
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]

    @property
    def logs(self) -> list[LogRecord]:
        return [
            record
            for request in self._received()
            if isinstance(request, ExportLogsServiceRequest)
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def spans_of(self, service_name: str) -> list[Span]:
        """Return the spans that a service sent, by its ``service.name``."""
        return [
            span
            for request in self._received()
            if isinstance(request, ExportTraceServiceRequest)
            for resource in request.resource_spans
            if attributes(resource.resource.attributes).get("service.name") == service_name
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def clear(self) -> None:
        """Forget what came so far."""
        with self._lock:
            self.requests.clear()

    def start(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop receiving; what came stays to be looked at."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _received(self) -> list[Message]:
        with self._lock:
            return list(self.requests)

    def _take(self, request: Message) -> None:
        with self._lock:
            self.requests.append(request)


def attributes(pairs: Sequence[KeyValue]) -> dict[str, str | int | float | bool]:
    """Return OTLP attributes as a dict; values that are lists or maps are left out."""
    found: dict[str, str | int | float | bool] = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        if kind in ("string_value", "int_value", "double_value", "bool_value"):
            found[pair.key] = getattr(pair.value, kind)
    return found


def _handler_for(receiver: OtlpReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30.0

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path not in _KINDS:
                self._answer(404, b"")
                return
            request, response = (kind() for kind in _KINDS[self.path])
            try:
                request.ParseFromString(body)
            except DecodeError:
                self._answer(400, b"")
                return
            receiver._take(request)
            self._answer(200, response.SerializeToString())

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: a test's output is its own."""

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
