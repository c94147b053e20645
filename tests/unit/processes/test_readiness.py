"""Waiting for processes to become ready."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from mainstay.processes.ports import steady_port
from mainstay.processes.readiness import Answer, ask, wait_until_ready
from tests.waiting import join

READY, NOT_YET, NOBODY = Answer(200, ""), Answer(503, ""), Answer(None, "refused")


class OneAnswer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503 if self.path == "/ready" else 404)
        self.end_headers()
        self.wfile.write(b"because")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), OneAnswer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        join(thread)


def test_a_port_is_asked_over_http(port: int) -> None:
    assert ask(port) == Answer(503, "because")
    assert not ask(port).is_ready


def test_a_program_without_the_route_counts_as_ready(port: int) -> None:
    assert ask(port, "/other").is_ready


def test_a_port_that_nobody_listens_on_is_no_error() -> None:
    found = ask(steady_port())
    assert found.status is None
    assert "refused" in found.text


def wait(answers: dict[int, list[Answer]], **given: object) -> dict[str, Answer]:
    options: dict[str, object] = {
        "timeout_seconds": 30.0,
        "given_up": set,
        "stopped": lambda: False,
        "ask": lambda port: answers[port].pop(0) if len(answers[port]) > 1 else answers[port][0],
        **given,
    }
    return wait_until_ready({"a": 1, "b": 2}, **options)  # type: ignore[arg-type]


def test_all_are_asked_until_all_are_ready() -> None:
    assert wait({1: [NOBODY, NOT_YET, READY], 2: [READY, NOT_YET]}) == {}


def test_who_is_not_ready_in_time_is_named_with_its_answer() -> None:
    assert wait({1: [READY], 2: [NOT_YET]}, timeout_seconds=0.0) == {"b": NOT_YET}


def test_nobody_waits_for_who_does_not_run() -> None:
    assert wait({1: [READY], 2: [NOBODY]}, given_up=lambda: {"b"}) == {"b": NOBODY}


def test_waiting_ends_when_everything_stops() -> None:
    assert wait({1: [NOBODY], 2: [NOBODY]}, stopped=lambda: True) == {}
