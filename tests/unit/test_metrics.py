"""Numbers: what `/metrics` shows, and that nothing from outside makes it grow."""

from __future__ import annotations

import re
import sys
import threading
import time

import pytest
from prometheus_client import Counter, Gauge
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from mainstay.config import Settings
from mainstay.metrics import CONTENT_TYPE, Metrics
from mainstay.testing.otlp import OtlpReceiver, attributes
from mainstay.testing.wait import eventually
from tests.waiting import join


def settings(**values: object) -> Settings:
    given = {"env": "test", "service_name": "orders", "version": "1.2", "commit": "abc"}
    return Settings(**(given | values))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(settings())


def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample as `/metrics` shows it, by its name and labels."""
    body, content_type = metrics.exposition()
    assert content_type == CONTENT_TYPE
    shown = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            shown[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return shown


def test_it_says_that_it_is_up_and_which_build_it_is(metrics: Metrics) -> None:
    metrics.up()

    shown = samples(metrics)
    assert shown["app_up"] == 1
    assert shown["app_build_info{commit=abc,env=test,version=1.2}"] == 1


def test_requests_are_counted_and_timed(metrics: Metrics) -> None:
    metrics.request("GET", "/items/{id}", 200, 0.03)
    metrics.request("GET", "/items/{id}", 200, 0.3)
    metrics.request("POST", "/items", 503, 0.1)

    shown = samples(metrics)
    labels = "method=GET,route=/items/{id},status=200"
    assert shown[f"app_requests_total{{{labels}}}"] == 2
    assert shown["app_requests_total{method=POST,route=/items,status=503}"] == 1
    assert shown[f"http_server_request_duration_seconds_count{{{labels}}}"] == 2
    assert shown[f"http_server_request_duration_seconds_sum{{{labels}}}"] == pytest.approx(0.33)
    assert shown[f"http_server_request_duration_seconds_bucket{{le=0.05,{labels}}}"] == 1


def test_nothing_is_forgotten_between_two_looks(metrics: Metrics) -> None:
    labels = "method=GET,route=/,status=200"
    for rounds in (1, 2):
        for _ in range(1_300):
            metrics.request("GET", "/", 200, 0.001)
            metrics.call("server", "q", "done", 0.001)

        shown = samples(metrics)
        assert shown[f"app_requests_total{{{labels}}}"] == rounds * 1_300
        calls = "mainstay_call_duration_seconds_count{outcome=done,queue=q,side=server}"
        assert shown[calls] == rounds * 1_300


def test_threads_that_count_and_threads_that_look_lose_nothing(metrics: Metrics) -> None:
    def work() -> None:
        for number in range(3_000):
            metrics.request("GET", "/", 200, 0.001)
            if number % 1_000 == 0:
                metrics.collect()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    join(*threads)

    assert samples(metrics)["app_requests_total{method=GET,route=/,status=200}"] == 12_000


def test_a_method_that_is_none_is_one_label(metrics: Metrics) -> None:
    for number in range(50):
        metrics.request(f"X{number}", "/", 405, 0.0)

    assert samples(metrics)["app_requests_total{method=other,route=/,status=405}"] == 50


def test_routes_without_end_become_one_label(metrics: Metrics) -> None:
    for number in range(2_100):
        metrics.request("GET", f"/{number}", 200, 0.0)

    routes = [name for name in samples(metrics) if name.startswith("app_requests_total")]
    assert len(routes) == 2_001


def test_work_of_every_kind_is_timed(metrics: Metrics) -> None:
    metrics.task("charge", "done", 0.1)
    metrics.call("client", "data_queue", "expired", 10)
    metrics.event("card_charged", "retry", 0.1)
    metrics.iteration("failed", 2)

    shown = samples(metrics)
    assert shown["mainstay_task_duration_seconds_count{name=charge,outcome=done}"] == 1
    call = "{outcome=expired,queue=data_queue,side=client}"
    assert shown[f"mainstay_call_duration_seconds_count{call}"] == 1
    assert shown["mainstay_event_duration_seconds_count{outcome=retry,type=card_charged}"] == 1
    assert shown["app_iterations_total"] == 1
    assert shown["app_iteration_duration_seconds_count{outcome=failed}"] == 1


def test_the_names_of_tasks_are_bounded(metrics: Metrics) -> None:
    for number in range(2_100):
        metrics.task(f"task-{number}", "done", 0.0)

    assert samples(metrics)["mainstay_task_duration_seconds_count{name=other,outcome=other}"] == 100


def test_the_last_completed_work_is_stamped(metrics: Metrics) -> None:
    before = time.time()

    metrics.completed()

    assert before <= samples(metrics)["app_last_iteration_timestamp_seconds"] <= time.time()


@pytest.mark.parametrize(("outcome", "is_stamped"), [("done", True), ("failed", False)])
def test_only_what_went_well_is_completed_work(
    metrics: Metrics, outcome: str, is_stamped: bool
) -> None:
    metrics.task("charge", outcome, 0.1)

    assert (samples(metrics)["app_last_iteration_timestamp_seconds"] > 0) is is_stamped


def test_queues_breakers_and_redeliveries_are_shown(metrics: Metrics) -> None:
    metrics.on_scrape(
        lambda: metrics.queue(
            "data_queue",
            states={"ready": 3, "unacknowledged": 1},
            oldest_seconds=4.5,
            dead_letters=2,
        )
    )
    metrics.breaker("bank", "open")
    metrics.redelivered()
    metrics.dead_letter("data_queue")

    shown = samples(metrics)
    assert shown["mainstay_queue_messages{queue=data_queue,state=ready}"] == 3
    assert shown["mainstay_queue_messages{queue=data_queue,state=unacknowledged}"] == 1
    assert shown["mainstay_queue_oldest_seconds{queue=data_queue}"] == 4.5
    assert shown["mainstay_dead_letters{queue=data_queue}"] == 2
    assert shown["mainstay_breaker_state{name=bank}"] == 2
    assert shown["mainstay_redeliveries_total"] == 1
    assert shown["mainstay_dead_lettered_total{queue=data_queue}"] == 1


def test_a_source_that_is_down_hides_no_other(
    metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise ConnectionError("secret address")

    metrics.on_scrape(broken)
    metrics.on_scrape(lambda: metrics.queue("q", states={"ready": 1}))

    assert samples(metrics)["mainstay_queue_messages{queue=q,state=ready}"] == 1
    assert caplog.messages == ["a metric could not be read: ConnectionError"]


def test_an_author_has_instruments_of_their_own(metrics: Metrics) -> None:
    Counter("cards_charged", "Cards charged", registry=metrics.registry).inc()

    class Stock:
        def collect(self) -> list[GaugeMetricFamily]:
            return [GaugeMetricFamily("stock_items", "In stock", value=7)]

    stock = Stock()
    metrics.registry.register(stock)
    assert samples(metrics)["cards_charged_total"] == 1
    assert samples(metrics)["stock_items"] == 7

    metrics.registry.unregister(stock)
    assert "stock_items" not in samples(metrics)


def test_instruments_in_the_global_registry_are_shown_too(metrics: Metrics) -> None:
    from prometheus_client import REGISTRY

    gauge = Gauge("an_authors_gauge", "Made without us")
    gauge.set(3)
    try:
        assert samples(metrics)["an_authors_gauge"] == 3
    finally:
        REGISTRY.unregister(gauge)


def test_two_services_in_one_process_count_apart(metrics: Metrics) -> None:
    other = Metrics(settings())

    metrics.iteration("done", 1)

    assert samples(metrics)["app_iterations_total"] == 1
    assert samples(other)["app_iterations_total"] == 0


def test_the_process_tells_what_it_uses(metrics: Metrics) -> None:
    shown = samples(metrics)

    assert shown["process_cpu_seconds_total"] > 0
    assert any(name.startswith("python_info") for name in shown)


def test_no_name_appears_twice(metrics: Metrics) -> None:
    body, _ = metrics.exposition()

    names = re.findall(r"^# TYPE (\S+)", body.decode(), re.MULTILINE)
    assert len(names) == len(set(names))


def test_threads_lose_no_count(metrics: Metrics) -> None:
    def work() -> None:
        for _ in range(500):
            metrics.request("GET", "/", 200, 0.01)
            metrics.task("t", "done", 0.01)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    join(*threads)

    shown = samples(metrics)
    assert shown["app_requests_total{method=GET,route=/,status=200}"] == 4_000
    assert shown["mainstay_task_duration_seconds_count{name=t,outcome=done}"] == 4_000


def test_off_nothing_is_counted() -> None:
    metrics = Metrics(settings(metrics_enabled=False))

    metrics.up()
    metrics.request("GET", "/", 200, 0.1)
    metrics.task("t", "done", 0.1)
    metrics.iteration("done", 0.1)
    metrics.completed()
    metrics.dead_letter("q")
    metrics.redelivered()
    metrics.breaker("b", "closed")
    metrics.queue("q", states={"ready": 1})

    assert metrics.exposition() == (b"", CONTENT_TYPE)


def test_numbers_are_sent_to_the_collector(
    otlp: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, metrics: Metrics
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.endpoint)
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    metrics.request("GET", "/", 200, 0.03)
    metrics.request("GET", "/", 200, 3.0)

    metrics.up()
    eventually(lambda: otlp.metrics)
    metrics.close()
    metrics.close()

    sent = {metric.name: metric for metric in otlp.metrics}
    total = sent["app_requests_total"].sum
    assert total.is_monotonic
    assert total.data_points[0].as_double == 2
    assert attributes(total.data_points[0].attributes) == {
        "method": "GET",
        "route": "/",
        "status": "200",
    }
    seconds = sent["http_server_request_duration_seconds"].histogram.data_points[0]
    assert seconds.count == 2
    assert seconds.sum == pytest.approx(3.03)
    assert dict(zip(seconds.explicit_bounds, seconds.bucket_counts, strict=False))[0.05] == 1
    assert sum(seconds.bucket_counts) == 2
    assert len(seconds.bucket_counts) == len(seconds.explicit_bounds) + 1
    assert sent["http_server_request_duration_seconds"].unit == "s"
    assert sent["app_up"].gauge.data_points[0].as_double == 1


def test_an_opentelemetry_that_cannot_be_imported_costs_one_warning(
    monkeypatch: pytest.MonkeyPatch, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "mainstay.metrics.pusher", None)

    metrics.up()
    metrics.close()

    assert len(caplog.messages) == 1
    assert "metrics are not sent" in caplog.messages[0]
    assert samples(metrics)["app_up"] == 1


def test_the_last_numbers_are_sent_when_it_closes(
    otlp: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, metrics: Metrics
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{otlp.endpoint}/v1/metrics")
    metrics.up()

    metrics.iteration("done", 1.0)
    metrics.close()

    (sent,) = [metric for metric in otlp.metrics if metric.name == "app_iterations_total"]
    assert sent.sum.data_points[0].as_double == 1
