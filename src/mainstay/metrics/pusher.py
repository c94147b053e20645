"""How do numbers reach a collector? Read off the same registry every minute, by a thread.

This module imports OpenTelemetry's SDK; it is imported when metrics are sent.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from opentelemetry import context as otel_contexts
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from mainstay import forks, otlp

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter
    from prometheus_client.metrics_core import Metric as PrometheusMetric
    from prometheus_client.samples import Sample

    from mainstay.config import Settings

__all__ = ["Pusher", "points"]

_logger = logging.getLogger("mainstay.telemetry")

_DEFAULT_INTERVAL_SECONDS = 60.0


class Pusher:
    """Sends all metrics every ``OTEL_METRIC_EXPORT_INTERVAL`` milliseconds, a minute by default.

    Of several processes that count in one *directory* one sends for all; when it dies, the next
    one takes over.

    Args:
        settings: Under whose name they are sent.
        collect: Reads the metrics; called on the thread that sends.
        directory: Where several processes count together, if they do.
        exporter: Where to, instead of the collector that the environment names.
    """

    def __init__(
        self,
        settings: Settings,
        collect: Callable[[], Iterable[PrometheusMetric]],
        *,
        directory: Path | None = None,
        exporter: MetricExporter | None = None,
    ) -> None:
        self._resource = otlp.resource(settings)
        self._collect = collect
        self._directory = directory
        self._exporter = exporter or OTLPMetricExporter()
        self._since_ns = time.time_ns()
        self._turn: IO[str] | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send the last numbers, within two seconds."""
        self._closing.set()
        self._thread.join(otlp.CLOSE_SECONDS)
        self._exporter.shutdown()
        if self._turn is not None:
            self._turn.close()

    def _run(self) -> None:
        # Or an author's instrumentation of HTTP clients would trace the sending of metrics.
        otel_contexts.attach(otel_contexts.set_value("suppress_instrumentation", True))
        interval = _interval_seconds()
        while True:
            is_last = self._closing.wait(interval)
            try:
                if self._is_our_turn():
                    self._send()
            except Exception as error:  # noqa: BLE001 - the next turn may do better
                _logger.warning("metrics were not sent: %s: %s", type(error).__name__, error)
            if is_last:
                return

    def _is_our_turn(self) -> bool:
        if self._directory is None or self._turn is not None:
            return True
        turn = (self._directory / ".otlp").open("w")
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            turn.close()
            return False
        self._turn = turn  # held until this process ends, however it does
        return True

    def _send(self) -> None:
        with forks.work():
            metrics = points(self._collect(), since_ns=self._since_ns, now_ns=time.time_ns())
        scope = ScopeMetrics(InstrumentationScope("mainstay"), metrics, "")
        self._exporter.export(MetricsData([ResourceMetrics(self._resource, [scope], "")]))


def points(metrics: Iterable[PrometheusMetric], *, since_ns: int, now_ns: int) -> list[Metric]:
    """Return *metrics* as OpenTelemetry has them, under the names that `/metrics` shows.

    Args:
        metrics: As `prometheus_client` collects them.
        since_ns: When counting began, in nanoseconds since 1970.
        now_ns: When they were read.
    """
    converted = []
    for metric in metrics:
        data: Sum | Gauge | Histogram
        if not metric.samples:
            continue
        name = metric.name
        if metric.type == "histogram":
            data = Histogram(
                _histogram_points(metric.samples, since_ns, now_ns),
                AggregationTemporality.CUMULATIVE,
            )
        elif metric.type == "counter":
            name = f"{metric.name}_total"
            totals = [sample for sample in metric.samples if sample.name == name]
            data = Sum(
                [_number(sample, since_ns, now_ns) for sample in totals],
                AggregationTemporality.CUMULATIVE,
                is_monotonic=True,
            )
        else:
            data = Gauge([_number(sample, since_ns, now_ns) for sample in metric.samples])
        unit = "s" if "_seconds" in metric.name else "By" if "_bytes" in metric.name else ""
        converted.append(Metric(name, metric.documentation, unit, data))
    return converted


def _number(sample: Sample, since_ns: int, now_ns: int) -> NumberDataPoint:
    return NumberDataPoint(sample.labels, since_ns, now_ns, sample.value)


def _histogram_points(
    samples: Iterable[Sample], since_ns: int, now_ns: int
) -> list[HistogramDataPoint]:
    buckets: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for sample in samples:
        labels = tuple(sorted(pair for pair in sample.labels.items() if pair[0] != "le"))
        if sample.name.endswith("_bucket"):
            bound = (float(sample.labels["le"]), sample.value)
            buckets.setdefault(labels, []).append(bound)
        elif sample.name.endswith("_sum"):
            sums[labels] = sample.value
    made = []
    for labels, bounds in buckets.items():
        bounds.sort()
        counts = [
            int(count - before)
            for (_, count), (_, before) in zip(bounds, [(0.0, 0.0), *bounds], strict=False)
        ]
        made.append(
            HistogramDataPoint(
                dict(labels),
                since_ns,
                now_ns,
                count=int(bounds[-1][1]),
                sum=sums.get(labels, 0.0),
                bucket_counts=counts,
                explicit_bounds=[bound for bound, _ in bounds[:-1]],
                min=None,  # type: ignore[arg-type]  # Prometheus does not know; optional on the wire
                max=None,  # type: ignore[arg-type]  # likewise
            )
        )
    return made


def _interval_seconds() -> float:
    named = os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "").strip()
    try:
        return max(int(named) / 1000, 0.1) if named else _DEFAULT_INTERVAL_SECONDS
    except ValueError:
        _logger.warning(
            "OTEL_METRIC_EXPORT_INTERVAL is no number of milliseconds: metrics are sent every "
            "%g seconds",
            _DEFAULT_INTERVAL_SECONDS,
        )
        return _DEFAULT_INTERVAL_SECONDS
