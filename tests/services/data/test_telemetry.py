"""One outside request can be followed through every process by one id, and by one trace."""

from __future__ import annotations

import re
import secrets
from typing import Any

import httpx

from mainstay.testing.otlp import OtlpReceiver, attributes
from mainstay.testing.wait import eventually
from tests.services.data.platform import API
from tests.services.platform import Platform

# What the API, the worker and the server of calls write their lines as.
LOGGERS = {"mainstay.http", "mainstay.tasks", "mainstay.rpc"}
TRACE = "00-{trace}-00f067aa0ba902b7-01"


def test_one_correlation_id_and_one_trace_go_through_api_call_and_task(
    platform: Platform, client: httpx.Client, telemetry: OtlpReceiver
) -> None:
    correlation_id = f"follow-{secrets.token_hex(6)}"
    trace_id = secrets.token_hex(16)
    headers = {"X-Correlation-ID": correlation_id, "traceparent": TRACE.format(trace=trace_id)}
    for path in ("process", "process-async"):
        answer = client.post(f"{API}/data/{path}", json={"payload": 1}, headers=headers)
        assert answer.is_success
        assert answer.headers["x-correlation-id"] == correlation_id

    def processes() -> bool:
        lines = platform.lines(correlation_id=correlation_id)
        assert {fields["trace_id"] for fields in lines} == {trace_id}
        return {fields["logger"] for fields in lines} >= LOGGERS

    assert eventually(processes)
    # The worker calls the server as the API does.
    assert len(platform.lines(correlation_id=correlation_id, event="call")) == 2

    def names() -> bool:
        spans = [span for span in telemetry.spans if span.trace_id.hex() == trace_id]
        found = {span.name for span in spans}
        parents = {span.span_id for span in spans} | {bytes.fromhex("00f067aa0ba902b7")}
        assert all(span.parent_span_id in parents for span in spans)
        servers = [span for span in spans if span.kind == span.SPAN_KIND_SERVER]
        assert sum(span.name.startswith("POST ") for span in servers) == 2
        assert any("data_queue" in name for name in found)
        assert any("data.process" in name for name in found)
        return any("db.system.name" in attributes(span.attributes) for span in spans)

    assert eventually(names)


def test_every_process_measures_what_it_did(platform: Platform, client: httpx.Client) -> None:
    client.post(f"{API}/data/process", json={"payload": 1})
    client.post(f"{API}/data/process-async", json={"payload": 1})
    wanted = {
        0: [
            'app_requests_total{method="POST",route="/api/v1/data/process",status="200"}',
            'mainstay_call_duration_seconds_count{outcome="done",queue="data_queue",side="client"}',
        ],
        1: [
            'mainstay_task_duration_seconds_count{name="data.process",outcome="done"}',
            'mainstay_call_duration_seconds_count{outcome="done",queue="data_queue",side="client"}',
        ],
        2: [
            'mainstay_call_duration_seconds_count{outcome="done",queue="data_queue",side="server"}'
        ],
    }
    for index, lines in wanted.items():
        address = f"http://127.0.0.1:{platform.ports[index]}/metrics"

        def measured(address: str = address, lines: list[str] = lines) -> bool:
            text = httpx.get(address).text
            for line in [*lines, "app_build_info{", "process_cpu_seconds_total "]:
                assert f"\n{line}" in text
            assert re.search(r"^app_up(\{.*\})? 1\.0$", text, re.MULTILINE)
            return True

        eventually(measured)


def test_every_process_says_that_it_started(platform: Platform) -> None:
    def started() -> list[dict[str, Any]]:
        return platform.lines(event="startup_success")

    names = {"api", "worker", "dataservice"}
    eventually(lambda: {line["process"] for line in started()} == names)
    for line in started():
        assert (line["service"], line["level"]) == ("data", "info")
        assert {"ts", "logger", "instance", "env", "msg"} <= line.keys()
