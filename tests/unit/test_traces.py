"""Spans: one unbroken trace under the ids of our context, sent without costing the work."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind as OtelKind
from opentelemetry.trace import StatusCode

from mainstay import context as contexts
from mainstay import otlp as telemetry
from mainstay.config import Settings
from mainstay.context import Context
from mainstay.errors import NotFound
from mainstay.testing.otlp import OtlpReceiver, attributes
from mainstay.testing.wait import eventually
from mainstay.traces import Traces
from tests.waiting import PATIENCE_SECONDS


def settings(**values: object) -> Settings:
    given = {"env": "test", "service_name": "orders", "version": "1.2", "instance": "host-1"}
    return Settings(**(given | values))


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traces(exporter: InMemorySpanExporter) -> Iterator[Traces]:
    traces = Traces(settings(), exporter=exporter)
    yield traces
    traces.close()


@pytest.fixture(autouse=True)
def no_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


def sent(traces: Traces, exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    traces.close()
    return {span.name: span for span in exporter.get_finished_spans()}


def test_without_an_endpoint_nothing_is_made() -> None:
    traces = Traces(settings())
    context = Context.new()

    assert not traces.enabled
    assert traces.start("x", kind="server", context=context) is None
    with contexts.use(context), traces.client("call") as sent_on:
        assert sent_on is context


def test_outside_of_any_work_a_client_begins_anew() -> None:
    with Traces(settings()).client("call") as context:
        assert len(context.trace_id) == 32


def test_a_span_has_the_ids_of_the_context_that_came_in(
    traces: Traces, exporter: InMemorySpanExporter
) -> None:
    context = Context.extract({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "x=1"})

    span = traces.start("GET", kind="server", context=context, attributes={"http.method": "GET"})
    assert span is not None
    assert span.context is context
    span.set("http.status", 200)
    span.end("GET /items/{id}", "done", None)

    made = sent(traces, exporter)["GET /items/{id}"]
    assert made.context is not None
    assert made.parent is not None
    assert f"{made.context.trace_id:032x}" == "a" * 32
    assert f"{made.context.span_id:016x}" == context.span_id
    assert f"{made.parent.span_id:016x}" == "b" * 16
    assert made.parent.is_remote
    assert made.context.trace_state.get("x") == "1"
    assert made.kind is OtelKind.SERVER
    assert made.attributes == {
        "http.method": "GET",
        "http.status": 200,
        "mainstay.outcome": "done",
    }


def test_at_the_edge_a_span_has_no_parent(traces: Traces, exporter: InMemorySpanExporter) -> None:
    context = Context.new()

    span = traces.start("x", kind="consumer", context=context)
    assert span is not None
    span.end("x", "done", None)

    made = sent(traces, exporter)["x"]
    assert made.context is not None
    assert made.parent is None
    assert f"{made.context.trace_id:032x}" == context.trace_id
    assert f"{made.context.span_id:016x}" == context.span_id


def test_a_call_is_a_child_and_what_is_sent_names_it(
    traces: Traces, exporter: InMemorySpanExporter
) -> None:
    span = traces.start("request", kind="server", context=Context.new())
    assert span is not None
    with contexts.use(span.context):
        with traces.client("call data_queue", attributes={"queue": "data_queue"}) as context:
            assert contexts.current() is context
            header = context.inject()["traceparent"]
        assert contexts.current() is span.context
    span.end("request", "done", None)

    spans = sent(traces, exporter)
    call, request = spans["call data_queue"], spans["request"]
    assert call.context is not None
    assert request.context is not None
    assert call.parent is not None
    assert call.parent.span_id == request.context.span_id
    assert header == f"00-{request.context.trace_id:032x}-{call.context.span_id:016x}-01"
    assert call.kind is OtelKind.CLIENT


def test_an_authors_own_spans_nest_between_ours(
    traces: Traces, exporter: InMemorySpanExporter
) -> None:
    from mainstay.traces import spans as recording

    span = traces.start("request", kind="server", context=Context.new())
    assert isinstance(span, recording.RecordedSpan)
    provider = trace.get_tracer_provider()
    tracer = provider.get_tracer("author")
    with contexts.use(span.context), tracer.start_as_current_span("author's"):
        author = trace.get_current_span().get_span_context()
        with traces.client("call"):
            pass
    span.end("request", "done", None)

    assert f"{author.trace_id:032x}" == span.context.trace_id
    call = sent(traces, exporter)["call"]
    assert call.parent is not None
    assert call.parent.span_id == author.span_id


def test_a_span_is_no_longer_current_once_it_ended(traces: Traces) -> None:
    span = traces.start("x", kind="server", context=Context.new())
    assert span is not None
    assert trace.get_current_span().get_span_context().is_valid

    span.end("x", "done", None)
    span.end("x", "done", None)

    assert not trace.get_current_span().get_span_context().is_valid


def test_a_failure_is_noted_without_its_secrets(
    traces: Traces, exporter: InMemorySpanExporter
) -> None:
    span = traces.start("x", kind="server", context=Context.new())
    assert span is not None
    span.set("db.password", "geheim")
    span.set("items", [1, 2])
    span.set("nothing", None)
    span.end("x", "failed", ConnectionError("amqp://u:geheim@h refused"))

    made = sent(traces, exporter)["x"]
    assert made.status.status_code is StatusCode.ERROR
    assert made.attributes is not None
    assert made.attributes["error.type"] == "ConnectionError"
    assert made.attributes["items"] == "[1, 2]"
    assert made.events[0].name == "exception"
    assert "geheim" not in made.to_json()


def test_a_request_that_was_wrong_is_no_error_of_ours(
    traces: Traces, exporter: InMemorySpanExporter
) -> None:
    span = traces.start("x", kind="server", context=Context.new())
    assert span is not None
    span.end("x", "refused", NotFound("no such card"))

    assert sent(traces, exporter)["x"].status.status_code is StatusCode.UNSET


def test_a_call_that_raises_is_an_error(traces: Traces, exporter: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="no"), traces.client("call"):
        raise ValueError("no")

    assert sent(traces, exporter)["call"].status.status_code is StatusCode.ERROR


def test_what_the_caller_does_not_record_we_do_not_either(
    traces: Traces, exporter: InMemorySpanExporter
) -> None:
    context = Context.extract({"traceparent": f"00-{'a' * 32}-{'b' * 16}-00"})

    span = traces.start("x", kind="server", context=context)
    assert span is not None
    with contexts.use(span.context), traces.client("call") as child:
        assert child.traceparent.endswith("-00")
    span.set("a", 1)
    span.end("x", "failed", ValueError("no"))

    assert sent(traces, exporter) == {}


def test_the_sampler_of_the_environment_decides_and_callees_hear_it(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    traces = Traces(settings(), exporter=exporter)

    span = traces.start("x", kind="server", context=Context.new())

    assert span is not None
    assert not span.context.sampled
    span.end("x", "done", None)
    assert sent(traces, exporter) == {}


def test_spans_reach_the_collector_under_our_name(
    otlp: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.endpoint)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=cards,service.instance.id=pod-7")
    traces = Traces(settings())
    assert traces.enabled

    span = traces.start("x", kind="server", context=Context.new())
    assert span is not None
    span.end("x", "done", None)
    traces.close()

    (received,) = otlp.spans_of("orders")
    assert received.name == "x"
    (resource,) = [request.resource_spans[0].resource for request in otlp.requests]
    assert (
        attributes(resource.attributes).items()
        >= {
            "service.name": "orders",
            "service.version": "1.2",
            "service.instance.id": "pod-7",
            "team": "cards",
            "deployment.environment.name": "test",
        }.items()
    )


@pytest.mark.parametrize(
    "off",
    [
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "console"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
    ],
    ids=str,
)
def test_it_can_be_turned_off(off: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"} | off).items():
        monkeypatch.setenv(name, value)

    assert not Traces(settings()).enabled


def test_an_opentelemetry_that_cannot_be_imported_costs_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "mainstay.traces.spans", None)
    traces = Traces(settings())

    for _ in range(2):
        assert traces.start("x", kind="server", context=Context.new()) is None
        with traces.client("call") as context:
            assert context.parent_id == ""

    assert len(caplog.messages) == 1
    assert "traces are not sent" in caplog.messages[0]


def test_the_endpoint_of_one_signal_turns_on_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9/v1/traces")

    assert telemetry.is_sent("traces")
    assert not telemetry.is_sent("logs")


def test_without_the_extra_one_warning_names_the_command(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(telemetry, "find_spec", lambda name: None)
    telemetry._is_installed.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert not Traces(settings()).enabled
            assert not telemetry.is_sent("metrics")
    finally:
        telemetry._is_installed.cache_clear()

    assert len(caplog.messages) == 1
    assert "pip install 'mainstay[otel]'" in caplog.messages[0]


def test_a_collector_that_never_answers_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(telemetry, "CLOSE_SECONDS", 0.1)
    answers, has_ended = threading.Event(), threading.Event()

    class Stuck(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            answers.wait(PATIENCE_SECONDS)
            has_ended.set()
            return SpanExportResult.FAILURE

        def shutdown(self) -> None:
            pass

    traces = Traces(settings(), exporter=Stuck())
    span = traces.start("x", kind="server", context=Context.new())
    assert span is not None
    span.end("x", "done", None)

    traces.close()
    traces.close()

    assert not has_ended.is_set()
    answers.set()
    eventually(has_ended.is_set)


def test_after_closing_it_can_be_used_again(
    otlp: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.endpoint)
    traces = Traces(settings())

    for name in ("one", "two"):
        with traces.client(name):
            pass
        traces.close()

    assert [span.name for span in otlp.spans] == ["one", "two"]


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    set_up = """
import os, sys
from mainstay.config import Settings
from mainstay.context import Context
from mainstay.traces import Traces
traces = Traces(Settings(env="test", service_name="orders"))
def unit(name):
    span = traces.start(name, kind="server", context=Context.new())
    if span is not None:
        span.end(name, "done", None)
"""
    return subprocess.run(
        [sys.executable, "-c", set_up + program],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
        env=os.environ | environment,
    )


def test_off_no_part_of_opentelemetry_is_loaded() -> None:
    program = "unit('x'); print([name for name in sys.modules if name.startswith('opentel')])"

    assert run(program).stdout == "[]\n"


def test_a_process_that_is_not_stopped_by_the_book_sends_what_it_has(otlp: OtlpReceiver) -> None:
    done = run("unit('last')", OTEL_EXPORTER_OTLP_ENDPOINT=otlp.endpoint)

    assert done.returncode == 0, done.stderr
    assert [span.name for span in otlp.spans] == ["last"]


def test_a_child_that_was_forked_sends_its_own_spans(otlp: OtlpReceiver) -> None:
    program = """
unit("parent's")
pid = os.fork()
if pid == 0:
    unit("child's")
    traces.close()
    os._exit(0)
os.waitpid(pid, 0)
"""
    done = run(program, OTEL_EXPORTER_OTLP_ENDPOINT=otlp.endpoint)

    assert done.returncode == 0, done.stderr
    assert sorted(span.name for span in otlp.spans) == ["child's", "parent's"]


def test_authors_who_use_the_api_alone_are_sent_too(otlp: OtlpReceiver) -> None:
    program = """
from opentelemetry import trace
span = traces.start("request", kind="server", context=Context.new())
with trace.get_tracer("author").start_as_current_span("author's"):
    pass
span.end("request", "done", None)
"""
    done = run(program, OTEL_EXPORTER_OTLP_ENDPOINT=otlp.endpoint)

    assert done.returncode == 0, done.stderr
    spans = {span.name: span for span in otlp.spans}
    assert spans["author's"].parent_span_id == spans["request"].span_id
