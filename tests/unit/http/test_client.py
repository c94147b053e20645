from __future__ import annotations

import asyncio
import http.server
import inspect
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import httpx
import pytest

from mainstay import Service
from mainstay import context as contexts
from mainstay.breakers import Breaker
from mainstay.context import Context, Principal
from mainstay.errors import (
    DeadlineExceeded,
    Disconnected,
    Invalid,
    NotConnected,
    NotFound,
    Overloaded,
    RemoteFailure,
    Unavailable,
)
from mainstay.http.client import AsyncClient, Client, Reply
from mainstay.retries import Backoff
from tests.waiting import PATIENCE_SECONDS

AT_ONCE = Backoff(attempts=3, initial_seconds=0.001, max_seconds=0.001)

Answer = httpx.Response | Exception


class Asks(Protocol):
    def __call__(self, method: str, path: str, **options: Any) -> Reply: ...


class Other:
    """The other service: answers what it is told to, in turn, the last one for ever."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.answers: list[Answer] = [httpx.Response(200, json={"ok": True})]
        self.options: dict[str, Any] = {}

    def will(self, *answers: Answer) -> None:
        self.answers = list(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


@pytest.fixture
def other() -> Other:
    return Other()


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, other: Other) -> Asks:
    """Ask the other service, through either face of the client."""

    def blocking(method: str, path: str, **options: Any) -> Reply:
        made: dict[str, Any] = {
            "backoff": AT_ONCE,
            "transport": httpx.MockTransport(other),
            **other.options,
        }
        with Client("http://other/base", **made) as client:
            return client.request(method, path, **options)

    def on_a_loop(method: str, path: str, **options: Any) -> Reply:
        async def run() -> Reply:
            made: dict[str, Any] = {
                "backoff": AT_ONCE,
                "transport": httpx.MockTransport(other),
                **other.options,
            }
            async with AsyncClient("http://other/base", **made) as client:
                return await client.request(method, path, **options)

        return asyncio.run(run())

    return blocking if request.param == "sync" else on_a_loop


def test_the_context_goes_along(ask: Asks, other: Other) -> None:
    with contexts.use(Context.extract({"x-correlation-id": "abc"})) as context:
        ask("GET", "/orders")
    (request,) = other.requests
    assert str(request.url) == "http://other/base/orders"
    assert request.headers["x-correlation-id"] == "abc"
    assert request.headers["traceparent"] == context.traceparent


def test_the_deadline_goes_along_and_bounds_the_request(ask: Asks, other: Other) -> None:
    context = Context.extract({"x-timeout-seconds": "3"})
    with contexts.use(context):
        ask("GET", "/orders")
    assert 2 < float(other.requests[0].headers["x-timeout-seconds"]) <= 3


def test_nothing_is_sent_when_no_time_is_left(ask: Asks, other: Other) -> None:
    context = Context("c", "0" * 32, "0" * 16, deadline=time.monotonic() - 1)
    with contexts.use(context), pytest.raises(DeadlineExceeded):
        ask("GET", "/orders")
    assert other.requests == []


def test_the_token_of_who_asks_stays_here_unless_it_is_passed_on(ask: Asks, other: Other) -> None:
    context = Context("c", "0" * 32, "0" * 16, principal=Principal("u", token="signed"))
    with contexts.use(context):
        ask("GET", "/orders")
        other.options["passes_principal"] = True
        ask("GET", "/orders")
    first, second = other.requests
    assert "x-mainstay-token" not in first.headers
    assert second.headers["x-mainstay-token"] == "signed"


def test_headers_of_the_client_are_sent_with_every_request(ask: Asks, other: Other) -> None:
    other.options["headers"] = {"X-Api-Key": "ours", "Accept": "text/csv"}
    ask("GET", "/orders")
    ask("POST", "/orders", json={}, headers={"accept": "application/json", "X-Page": "2"})
    first, second = other.requests
    assert (first.headers["x-api-key"], first.headers["accept"]) == ("ours", "text/csv")
    assert second.headers["x-api-key"] == "ours"
    assert second.headers.get_list("accept") == ["application/json"]
    assert (second.headers["x-page"], second.headers["content-type"]) == ("2", "application/json")


def test_a_header_that_is_given_takes_the_place_of_what_the_context_has(
    ask: Asks, other: Other
) -> None:
    other.options["headers"] = {"X-Correlation-ID": "of-the-client"}
    with contexts.use(Context.extract({"x-correlation-id": "abc"})):
        ask("GET", "/orders")
        ask("GET", "/orders", headers={"X-Correlation-ID": "given"})
    sent = [request.headers.get_list("x-correlation-id") for request in other.requests]
    assert sent == [["abc"], ["given"]]


def test_no_more_connections_are_open_than_may_be() -> None:
    arrived, released = threading.Event(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            arrived.set()
            released.wait(PATIENCE_SECONDS)
            self.send_response(204)
            self.end_headers()

    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server,
        ThreadPoolExecutor(2) as pool,
        Client(f"http://127.0.0.1:{server.server_port}", max_connections=1) as client,
    ):
        pool.submit(server.serve_forever, poll_interval=0.01)
        try:
            first = pool.submit(client.get, "/", timeout_seconds=PATIENCE_SECONDS)
            assert arrived.wait(PATIENCE_SECONDS)
            with pytest.raises(NotConnected):  # the server would have let it wait for an answer
                client.get("/", timeout_seconds=1.0)
            released.set()
            assert first.result().status == 204
        finally:
            released.set()
            server.shutdown()


def test_a_body_is_sent_as_json(ask: Asks, other: Other) -> None:
    assert ask("POST", "/orders", json={"a": None}).json() == {"ok": True}
    assert other.requests[0].content == b'{"a":null}'
    assert other.requests[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_what_is_safe_to_repeat_is_tried_again(ask: Asks, other: Other, method: str) -> None:
    other.will(httpx.ReadError("broken"), httpx.Response(503), httpx.Response(200))
    assert ask(method, "/orders").status == 200
    assert len(other.requests) == 3


def test_a_post_is_not_sent_twice(ask: Asks, other: Other) -> None:
    other.will(httpx.ReadError("broken"))
    with pytest.raises(Disconnected):
        ask("POST", "/orders", json={})
    assert len(other.requests) == 1
    other.will(httpx.Response(503))
    assert ask("POST", "/orders", json={}).status == 503
    assert len(other.requests) == 2


def test_a_post_with_a_key_is_sent_again(ask: Asks, other: Other) -> None:
    other.will(httpx.ReadError("broken"), httpx.Response(201))
    assert ask("POST", "/orders", json={}, headers={"Idempotency-Key": "k"}).status == 201


def test_what_never_left_is_sent_again_whatever_it_is(ask: Asks, other: Other) -> None:
    other.will(httpx.ConnectError("refused"), httpx.Response(201))
    assert ask("POST", "/orders", json={}).status == 201


def test_it_gives_up_after_so_many_tries(ask: Asks, other: Other) -> None:
    other.will(httpx.ConnectError("refused"))
    with pytest.raises(NotConnected):
        ask("GET", "/orders")
    assert len(other.requests) == 3


def test_it_waits_as_long_as_it_is_told_or_not_at_all(ask: Asks, other: Other) -> None:
    other.will(httpx.Response(503, headers={"Retry-After": "3600"}))
    assert ask("GET", "/orders").status == 503
    assert len(other.requests) == 1


def test_a_timeout_is_not_tried_again(ask: Asks, other: Other) -> None:
    other.will(httpx.ReadTimeout("slow"))
    with pytest.raises(DeadlineExceeded):
        ask("GET", "/orders")
    assert len(other.requests) == 1


def test_a_redirect_is_an_answer(ask: Asks, other: Other) -> None:
    other.will(httpx.Response(302, headers={"Location": "http://elsewhere/"}))
    assert ask("GET", "/orders").status == 302


@pytest.mark.parametrize("path", ["http://elsewhere/x", "https://other/x", "http://other:81/x"])
def test_no_request_leads_away(ask: Asks, other: Other, path: str) -> None:
    with pytest.raises(Invalid):
        ask("GET", path)
    assert other.requests == []


def test_an_address_in_a_query_leads_nowhere(ask: Asks, other: Other) -> None:
    ask("GET", "/login?next=http://elsewhere/x")
    assert str(other.requests[0].url) == "http://other/base/login?next=http://elsewhere/x"


def test_an_answer_is_read_up_to_a_limit(ask: Asks, other: Other) -> None:
    other.options["reply_limit_bytes"] = 10
    other.will(httpx.Response(200, content=b"x" * 11))
    with pytest.raises(RemoteFailure, match="longer than 10 bytes"):
        ask("GET", "/orders")


def test_a_breaker_spares_a_server_that_fails(ask: Asks, other: Other) -> None:
    breaker = Breaker("other", failures=3)
    other.options["breaker"] = breaker
    other.will(httpx.Response(503))
    assert ask("GET", "/orders").status == 503
    assert (breaker.state, len(other.requests)) == ("open", 3)
    with pytest.raises(Unavailable, match="left alone"):
        ask("GET", "/orders")
    assert len(other.requests) == 3


def test_the_state_of_a_breaker_is_a_metric_from_the_start(
    ask: Asks, other: Other, service: Service
) -> None:
    def shown() -> float | None:
        return service.metrics.registry.get_sample_value(
            "mainstay_breaker_state", {"name": "other"}
        )

    breaker = Breaker("other", failures=3)
    other.options |= {"breaker": breaker, "service": service}
    ask("GET", "/orders")
    assert shown() == 0
    other.will(httpx.Response(503))
    ask("GET", "/orders")
    assert shown() == 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, NotFound),
        (429, Overloaded),
        (503, Unavailable),
        (504, DeadlineExceeded),
        (409, RemoteFailure),
    ],
)
def test_a_reply_that_is_no_success_says_so(status: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="out of stock"):
        Reply(status, {}, b'{"detail": "out of stock"}').check()


def test_a_reply_that_is_no_json_says_so() -> None:
    with pytest.raises(RemoteFailure):
        Reply(200, {}, b"<html>").json()


def test_both_faces_have_the_same_methods() -> None:
    def public(kind: type) -> set[str]:
        return {
            name
            for name, _ in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert public(Client) - {"close"} == public(AsyncClient) - {"aclose"}
