"""Which numbers does every service have, and how are they put together for one answer?

Imported on first use: `prometheus_client` decides where numbers live when it makes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

import prometheus_client as prometheus
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import REGISTRY, CollectorRegistry

from mainstay.metrics import processes

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram
    from prometheus_client.registry import Collector

__all__ = ["Instruments", "as_text"]

# Of OpenTelemetry's semantic conventions for HTTP servers.
_REQUEST_BUCKETS = (
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
_WORK_BUCKETS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip
_REQUEST_SECONDS = "http_server_request_duration_seconds"
# Gauges of the dead must not be read: no other modes than these.
_Mode = Literal["livemax", "livesum", "mostrecent"]


class Instruments:
    """The instruments of the contract, in a registry of their own."""

    def __init__(self) -> None:
        self.directory = processes.find_directory()
        if self.directory is not None:
            processes.use_directory(self.directory)
        prometheus.disable_created_metrics()
        self.registry = _Registry()

        self.up = self._gauge("app_up", "livemax", "1 while the process runs")
        self.build_info = self._gauge(
            "app_build_info", "livemax", "Which build runs", "version", "commit", "env"
        )
        self.last_iteration = self._gauge(
            "app_last_iteration_timestamp_seconds",
            "mostrecent",
            "When the last unit of work was completed",
        )
        self.request_seconds = self._histogram(
            _REQUEST_SECONDS,
            _REQUEST_BUCKETS,
            "How long requests took",
            *("method", "route", "status"),
        )
        self.registry.register(_Requests(self.request_seconds))
        self.iterations = self._counter("app_iterations", "Turns of the loop")
        self.histograms = {
            "iteration": self._histogram(
                "app_iteration_duration_seconds", _WORK_BUCKETS, "How long turns took", "outcome"
            ),
            "task": self._histogram(
                "mainstay_task_duration_seconds",
                _WORK_BUCKETS,
                "How long tasks took",
                *("name", "outcome"),
            ),
            "call": self._histogram(
                "mainstay_call_duration_seconds",
                _WORK_BUCKETS,
                "How long calls took",
                *("side", "queue", "outcome"),
            ),
            "event": self._histogram(
                "mainstay_event_duration_seconds",
                _WORK_BUCKETS,
                "How long the handling of events took",
                *("type", "outcome"),
            ),
        }
        self.queue_messages = self._gauge(
            "mainstay_queue_messages", "mostrecent", "Messages in a queue", "queue", "state"
        )
        self.queue_oldest = self._gauge(
            "mainstay_queue_oldest_seconds",
            "mostrecent",
            "How long the oldest message of a queue has waited",
            "queue",
        )
        self.outbox_messages = self._gauge(
            "mainstay_outbox_messages", "mostrecent", "Messages in the outbox", "kind", "state"
        )
        self.outbox_oldest = self._gauge(
            "mainstay_outbox_oldest_seconds",
            "mostrecent",
            "How long the oldest message of the outbox that may leave has waited",
            "kind",
        )
        self.lost = self._gauge("mainstay_lost", "mostrecent", "Tasks that their broker has lost")
        self.dead_letters = self._gauge(
            "mainstay_dead_letters", "mostrecent", "Messages in a dead-letter queue", "queue"
        )
        self.dead_lettered = self._counter(
            "mainstay_dead_lettered", "Messages put among the dead letters", "queue"
        )
        self.redeliveries = self._counter("mainstay_redeliveries", "Messages that came again")
        self.log_lines_dropped = self._counter(
            "mainstay_log_lines_dropped", "Lines of the log that nobody read in time"
        )
        self.late_replies = self._counter(
            "mainstay_late_replies", "Answers to calls whose caller had given up"
        )
        self.breaker_state = self._gauge(
            "mainstay_breaker_state", "livemax", "0 closed, 1 half-open, 2 open", "name"
        )

    def collect(self) -> list[Metric]:
        """Return every metric: ours, those of authors, and the process' own."""
        found: dict[str, Metric] = {}
        if self.directory is None:
            _add(found, self.registry.collect())
            _add(found, processes.own_process())
        else:
            processes.reap(self.directory)
            shared = MultiProcessCollector(None, str(self.directory))
            _add(found, shared.collect())
            if _REQUEST_SECONDS in found:
                _add(found, [_requests_in(found[_REQUEST_SECONDS])])
            for collector in self.registry.without_files:
                _add(found, collector.collect())
            _add(found, processes.all_processes(self.directory))
        # What authors put into prometheus_client's global registry is meant to be seen too.
        _add(found, REGISTRY.collect())
        return list(found.values())

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return prometheus.Counter(name, what, labels, registry=self.registry)

    def _gauge(self, name: str, mode: _Mode, what: str, *labels: str) -> Gauge:
        return prometheus.Gauge(name, what, labels, registry=self.registry, multiprocess_mode=mode)

    def _histogram(
        self, name: str, buckets: tuple[float, ...], what: str, *labels: str
    ) -> Histogram:
        return prometheus.Histogram(name, what, labels, buckets=buckets, registry=self.registry)


def as_text(metrics: list[Metric]) -> bytes:
    """Write *metrics* in Prometheus' text format."""
    return generate_latest(_Found(metrics))


class _Found:
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


class _Registry(CollectorRegistry):
    """Remembers which collectors have no files, so that they are asked beside the files."""

    def __init__(self) -> None:
        super().__init__()
        self.without_files: list[Collector] = []

    def register(self, collector: Collector) -> None:
        super().register(collector)
        if not isinstance(collector, (MetricWrapperBase, _Requests)):
            self.without_files.append(collector)

    def unregister(self, collector: Collector) -> None:
        super().unregister(collector)
        if collector in self.without_files:
            self.without_files.remove(collector)


class _Requests:
    """``app_requests_total``, read off the durations: one count a request instead of two."""

    def __init__(self, seconds: Histogram) -> None:
        self._seconds = seconds

    def describe(self) -> Iterable[Metric]:
        return [_requests_in(Metric(_REQUEST_SECONDS, "", "histogram"))]

    def collect(self) -> Iterable[Metric]:
        return [_requests_in(metric) for metric in self._seconds.collect()]


def _requests_in(seconds: Metric) -> Metric:
    requests = CounterMetricFamily("app_requests", "Requests answered")
    for sample in seconds.samples:
        if sample.name == f"{_REQUEST_SECONDS}_count":
            requests.add_sample("app_requests_total", sample.labels, sample.value)
    return requests


def _add(found: dict[str, Metric], metrics: Iterable[Metric]) -> None:
    for metric in metrics:
        found.setdefault(metric.name, metric)
