"""The port of processes that have none: five routes, and nothing else."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
from collections.abc import Iterator, Mapping

import pytest

from mainstay.config import Settings
from mainstay.errors import Misconfigured
from mainstay.health import Check
from mainstay.monitor import PATHS, Monitor, aanswer, answer
from mainstay.service import Service
from tests.waiting import PATIENCE_SECONDS


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service(Settings(env="test", service_name="orders", version="1.2"))
    service.lifecycle.started()
    yield service
    service.lifecycle.stop()


@pytest.fixture
def monitor(service: Service) -> Iterator[Monitor]:
    monitor = Monitor(service, "127.0.0.1", 0)
    yield monitor
    monitor.close()


def ask(
    monitor: Monitor, path: str, method: str = "GET", headers: Mapping[str, str] | None = None
) -> tuple[int, Mapping[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", monitor.port, timeout=PATIENCE_SECONDS)
    try:
        connection.request(method, path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/health", "/ready", "/readyz", "/healthz", "/health?x=1"])
def test_health_is_answered(monitor: Monitor, path: str) -> None:
    status, headers, body = ask(monitor, path)

    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert headers["Cache-Control"] == "no-store"
    report = json.loads(body)
    assert (report["status"], report["service"], report["version"]) == ("healthy", "orders", "1.2")


def test_metrics_are_answered(monitor: Monitor, service: Service) -> None:
    service.metrics.up()

    status, headers, body = ask(monitor, "/metrics")

    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"app_up 1.0" in body


def test_an_unhealthy_process_is_503(monitor: Monitor, service: Service) -> None:
    def broken() -> None:
        raise ConnectionError("secret address")

    service.health.add(Check("database", broken))

    status, _, body = ask(monitor, "/health")

    assert status == 503
    assert json.loads(body)["checks"]["database"]["detail"] == "ConnectionError"
    assert b"secret" not in body


def test_a_process_that_drains_is_not_ready_and_still_alive(
    monitor: Monitor, service: Service
) -> None:
    service.lifecycle.drain()

    assert ask(monitor, "/ready")[0] == 503
    assert ask(monitor, "/healthz")[0] == 200


def test_any_other_path_is_a_problem_document(monitor: Monitor) -> None:
    status, headers, body = ask(monitor, "/secret", headers={"X-Correlation-ID": "abc-1"})

    assert status == 404
    assert headers["Content-Type"] == "application/problem+json"
    assert json.loads(body) == {
        "type": "about:blank",
        "title": "Not found",
        "status": 404,
        "detail": "there is nothing here; /health, /healthz, /metrics and /ready are answered",
        "instance": "/secret",
        "correlation_id": "abc-1",
    }


def test_head_has_no_body(monitor: Monitor) -> None:
    status, headers, body = ask(monitor, "/health", "HEAD")

    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0


@pytest.mark.parametrize("method", ["POST", "DELETE", "BREW"])
def test_other_methods_are_refused(monitor: Monitor, method: str) -> None:
    status, headers, body = ask(monitor, "/health", method)

    assert status == 405
    assert headers["Allow"] == "GET, HEAD"
    assert json.loads(body)["status"] == 405


@pytest.mark.parametrize(
    "sent",
    [b"\r\n", b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET " + b"a" * 70_000],
    ids=lambda sent: sent[:12],
)
def test_what_is_no_http_is_answered_or_dropped(monitor: Monitor, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", monitor.port), timeout=PATIENCE_SECONDS) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        answered = b"".join(iter(lambda: client.recv(65_536), b""))

    assert b"Traceback" not in answered
    assert answered == b"" or b"application/problem+json" in answered
    assert ask(monitor, "/healthz")[0] == 200


def test_headers_without_end_are_refused(monitor: Monitor) -> None:
    status, _, _ = ask(monitor, "/health", headers={f"X-{n}": "a" for n in range(200)})

    assert status == 431


def test_connections_without_end_are_turned_away(monitor: Monitor) -> None:
    idle = [
        socket.create_connection(("127.0.0.1", monitor.port), timeout=PATIENCE_SECONDS)
        for _ in range(40)
    ]
    try:
        turned_away = [client for client in idle[-4:] if client.recv(1) == b""]
    finally:
        for client in idle:
            client.close()

    assert len(turned_away) == 4


def test_a_port_that_is_taken_names_the_setting(monitor: Monitor, service: Service) -> None:
    with pytest.raises(Misconfigured, match="APP_METRICS_PORT") as caught:
        Monitor(service, "127.0.0.1", monitor.port)

    assert str(monitor.port) in str(caught.value)


def test_an_address_that_is_none_names_the_setting(service: Service) -> None:
    with pytest.raises(Misconfigured, match="cannot be served on"):
        Monitor(service, "256.256.256.256", 0)


def test_a_forked_child_does_not_answer_for_its_parent(monitor: Monitor) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        monitor.forget()
        os.write(writer, b"x")
        signal.pause()
        os._exit(0)
    try:
        assert os.read(reader, 1) == b"x"
        monitor.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", monitor.port), timeout=PATIENCE_SECONDS)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def test_the_port_that_was_found_is_logged(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = Monitor(service, "127.0.0.1", 0)
    monitor.close()
    monitor.close()

    line = json.loads(capsys.readouterr().out.splitlines()[0])
    assert line["event"] == "monitor_started"
    assert line["port"] == monitor.port > 0


async def test_answers_are_the_same_on_an_event_loop(service: Service) -> None:
    service.metrics.up()

    for path in PATHS - {"/metrics"}:
        blocking, awaited = answer(service, path), await aanswer(service, path)
        assert blocking is not None
        assert blocking == awaited
    metrics = await aanswer(service, "/metrics")
    assert metrics is not None
    assert b"app_up 1.0" in metrics.body
    assert await aanswer(service, "/x") is None


def test_metrics_that_are_off_are_not_found() -> None:
    service = Service(Settings(env="test", metrics_enabled=False))

    assert answer(service, "/metrics") is None
