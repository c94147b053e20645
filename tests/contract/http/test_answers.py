"""Requests in, answers out: what every framework's application does alike."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mainstay.health import Check
from mainstay.limits import MemoryCounts, RateLimits, Rule
from mainstay.testing.wait import eventually
from mainstay.traces import Traces
from tests.contract.http.conftest import Running
from tests.servers import exchange
from tests.waiting import PATIENCE_SECONDS

Run = Callable[..., Running]

# A thread that waits for a client cannot be called back, and WSGI has no WebSockets.
ON_EVENT_LOOPS = pytest.mark.parametrize("framework", ["fastapi"], indirect=True)

FIELDS = {"type", "title", "status", "detail", "instance", "correlation_id"}


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Return the problem document of an answer, after looking at what all of them share."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document.keys() >= FIELDS
    assert document["status"] == status
    assert document["correlation_id"] == answer.headers["x-correlation-id"]
    return document


# --- context --------------------------------------------------------------------------------


def test_an_answer_carries_the_correlation_id_that_came(running: Running) -> None:
    answer = running.client.get("/context", headers={"X-Correlation-ID": "abc-1"})
    assert answer.headers["x-correlation-id"] == "abc-1"
    assert answer.json()["correlation_id"] == "abc-1"


def test_a_request_id_is_understood_as_correlation_id(running: Running) -> None:
    answer = running.client.get("/context", headers={"X-Request-ID": "abc-2"})
    assert answer.headers["x-correlation-id"] == "abc-2"


@pytest.mark.parametrize("value", ["a b", "é", "x" * 129, "<script>", ""])
def test_a_correlation_id_of_another_form_is_replaced(running: Running, value: str) -> None:
    answer = running.client.get("/context", headers={b"X-Correlation-ID": value.encode()})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-correlation-id"])


def test_a_trace_is_continued(running: Running) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    parent = f"00-{trace}-b7ad6b7169203331-01"
    assert (
        running.client.get("/context", headers={"traceparent": parent}).json()["trace_id"] == trace
    )


def test_a_handler_knows_how_long_its_caller_waits(running: Running) -> None:
    assert running.client.get("/context").json()["remaining"] <= 30
    shorter = running.client.get("/context", headers={"X-Timeout-Seconds": "2"}).json()
    assert shorter["remaining"] <= 2
    longer = running.client.get("/context", headers={"X-Timeout-Seconds": "900"}).json()
    assert longer["remaining"] <= 30


def test_an_event_stream_has_no_deadline(running: Running) -> None:
    answer = running.client.get("/context", headers={"Accept": "text/event-stream"})
    assert answer.json()["remaining"] == 1000


# --- problems -------------------------------------------------------------------------------


def test_an_unknown_address_is_a_404_problem(running: Running) -> None:
    document = problem(running.client.get("/nothing/here?secret=1"), 404)
    assert document["instance"] == "/nothing/here"


def test_a_method_that_is_not_taken_is_a_405_problem_with_allow(running: Running) -> None:
    answer = running.client.post("/api/v1/items/1")
    problem(answer, 405)
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"


def test_options_says_which_methods_there_are(running: Running) -> None:
    answer = running.client.options("/api/v1/items/1")
    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


def test_head_answers_as_get_without_the_body(running: Running) -> None:
    answer = running.client.head("/api/v1/items/1")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == "8"


def test_an_unexpected_error_is_a_500_problem_without_internals(running: Running) -> None:
    document = problem(running.client.get("/boom"), 500)
    assert "hunter2" not in str(document)
    assert "RuntimeError" not in str(document)


def test_an_unexpected_error_is_logged_once_with_its_stack(running: Running) -> None:
    answer = running.client.get("/boom")
    (line,) = running.lines()
    assert line["level"] == "error"
    assert line["correlation_id"] == answer.headers["x-correlation-id"]
    assert line["exception_type"] == "RuntimeError"
    assert "in boom" in line["stack"]


@pytest.mark.parametrize("body", [b"{", b'{"name": "\\u0000"}', b" " * 1_100_000])
def test_a_body_that_is_refused_is_no_error_of_ours(running: Running, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = running.client.post("/api/v1/items", content=body, headers=headers)
    assert 400 <= answer.status_code < 500
    (line,) = running.lines()
    assert (line["level"], line["status"]) == ("info", answer.status_code)
    assert "stack" not in line


@pytest.mark.parametrize(
    ("name", "status", "headers"),
    [
        ("missing", 404, {}),
        ("unavailable", 503, {"retry-after": "3"}),
        ("overloaded", 503, {"retry-after": "1"}),
        (
            "limit",
            429,
            {
                "retry-after": "7",
                "ratelimit-policy": '"default";q=5;w=60',
                "ratelimit": '"default";r=0;t=7',
            },
        ),
        ("remote", 502, {}),
    ],
)
def test_our_own_errors_have_their_status(
    running: Running, name: str, status: int, headers: dict[str, str]
) -> None:
    answer = running.client.get(f"/errors/{name}")
    problem(answer, status)
    assert headers.items() <= dict(answer.headers).items()


# --- bodies that do not fit -----------------------------------------------------------------


def test_a_value_that_does_not_fit_is_named_by_a_pointer(running: Running) -> None:
    answer = running.client.post("/api/v1/items", json={"name": 5, "tags": ["a", 6]})
    errors = problem(answer, 422)["errors"]
    assert [error["pointer"] for error in errors] == ["/name", "/tags/1"]
    assert all(error["detail"] for error in errors)


def test_a_parameter_that_does_not_fit_is_named(running: Running) -> None:
    errors = problem(running.client.get("/api/v1/items/x"), 422)["errors"]
    assert errors[0]["pointer"] == "/item_id"
    assert errors[0]["detail"].startswith("path parameter: ")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"name": NaN}',
        b'{"name": "a", "payload": Infinity}',
        b'{"name": "a", "payload": 1e999}',
        b'{"name": "a", "payload": "\\ud800"}',
        b'{"name": "a", "payload": ' + b"9" * 5000 + b"}",
        b'{"name": "\xff"}',
        '{"name": "a"}'.encode("utf-16"),
        b"[" * 65 + b"]" * 65,
        b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:30]),
)
def test_a_body_that_is_no_json_is_a_400(running: Running, body: bytes) -> None:
    answer = running.client.post(
        "/api/v1/items", content=body, headers={"Content-Type": "application/json"}
    )
    problem(answer, 400)


@pytest.mark.parametrize(
    "payload", [2**70, 1.5e300, "é\u2028", {"a": {"b": [None, True]}}, "x" * 1000]
)
def test_any_json_value_passes(running: Running, payload: Any) -> None:
    answer = running.client.post("/api/v1/items", json={"name": "a", "payload": payload})
    assert (answer.status_code, answer.json()["payload"]) == (201, payload)


def test_a_character_that_cannot_be_stored_is_a_422(running: Running) -> None:
    answer = running.client.post("/api/v1/items", json={"name": "a", "payload": ["x", "\x00"]})
    assert problem(answer, 422)["errors"][0]["pointer"] == "/payload/1"
    problem(running.client.get("/api/v1/items/%00"), 400)
    problem(running.client.get("/header?value=%00"), 400)


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", None])
def test_a_body_of_another_type_is_a_415(running: Running, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = running.client.post("/api/v1/items", content=b'{"name": "a"}', headers=headers)
    problem(answer, 415)


def test_a_body_that_is_too_large_is_a_413(run: Run) -> None:
    running = run(body_limit_bytes=1000)
    problem(running.client.post("/api/v1/items", json={"name": "x" * 2000}), 413)


def test_a_body_that_is_too_large_is_a_413_without_content_length(run: Run) -> None:
    running = run(body_limit_bytes=1000)
    answer = running.client.post(
        "/api/v1/items",
        content=(b" " * 100 for _ in range(20)),
        headers={"Content-Type": "application/json"},
    )
    problem(answer, 413)


def test_a_route_may_raise_the_limit(run: Run) -> None:
    running = run(body_limit_bytes=1000)
    answer = running.client.post("/upload", content=b"x" * 100_000)
    assert answer.json() == 100_000
    problem(running.client.post("/upload", content=b"x" * (5 * 1024 * 1024)), 413)


# --- headers --------------------------------------------------------------------------------


def request(*lines: bytes, body: bytes = b"") -> bytes:
    """Write a request as nobody's library would."""
    return b"\r\n".join((*lines, b"Connection: close", b"", body))


@pytest.mark.parametrize(
    "lines",
    [
        (b"GET /context HTTP/1.1", b"Host: a", b"Host: b"),
        (b"GET /me HTTP/1.1", b"Host: a", b"Authorization: Bearer a", b"Authorization: Bearer b"),
        (
            b"POST /api/v1/items HTTP/1.1",
            b"Host: a",
            b"Content-Length: 2",
            b"Transfer-Encoding: chunked",
        ),
        (b"POST /api/v1/items HTTP/1.1", b"Host: a", b"Content-Length: 2", b"Content-Length: 3"),
    ],
)
def test_a_request_that_can_be_read_in_two_ways_is_refused(
    running: Running, lines: tuple[bytes, ...]
) -> None:
    assert exchange(running.port, request(*lines, body=b"{}")).startswith(b"HTTP/1.1 400 ")


def test_a_request_that_names_no_host_is_refused(running: Running) -> None:
    answer = exchange(running.port, request(b"GET /context HTTP/1.1", body=b""))
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "headers", [{"X-Long": "x" * 40_000}, {f"X-{number}": "x" for number in range(200)}]
)
def test_more_headers_than_are_read_are_a_431(running: Running, headers: dict[str, str]) -> None:
    answer = running.client.get("/context", headers=headers)
    problem(answer, 431)


@pytest.mark.parametrize("value", ["a%0d%0aSet-Cookie:%20x=1", "a%0ab", "a%0db"])
def test_a_line_end_in_a_value_splits_no_answer(running: Running, value: str) -> None:
    answer = running.client.get(f"/header?value={value}")
    assert "set-cookie" not in answer.headers
    if running.framework == "flask":
        problem(answer, 500)  # Werkzeug takes no such value
    else:
        assert answer.status_code == 200
        assert answer.headers["x-echo"].startswith("a ")


def test_answers_say_what_browsers_must_not_do(running: Running) -> None:
    api = running.client.get("/context").headers
    assert api["x-content-type-options"] == "nosniff"
    page = running.client.get("/page").headers
    assert page["x-frame-options"] == "DENY"
    assert page["referrer-policy"] == "same-origin"
    assert "frame-ancestors 'none'" in page["content-security-policy"]
    assert "strict-transport-security" not in page


def test_https_is_asked_for_outside_dev_behind_a_trusted_proxy(run: Run) -> None:
    running = run(env="prod", trusted_proxies=1, auth_required=False)
    secure = running.client.get("/context", headers={"X-Forwarded-Proto": "https"})
    assert "strict-transport-security" in secure.headers
    assert "strict-transport-security" not in running.client.get("/context").headers


# --- below a path ---------------------------------------------------------------------------

SECRET = "a secret of at least thirty-two bytes"


@pytest.mark.parametrize("root_path", ["/svc", "/a/b/", "/api/v1"])
def test_a_service_that_is_served_below_a_path_is_as_one_that_is_not(
    run: Run, root_path: str
) -> None:
    running = run(
        env="prod",
        jwt_secret_key=SECRET,
        options={"public": ("/context", "/page*")},
        server={"root_path": root_path},
    )
    get = running.client.get
    for path in ("/health", "/ready", "/metrics", "/context", "/page", "/api/v1/docs"):
        assert get(path).status_code == 200, path
    problem(get("/api/v1/items/7"), 401)
    token = running.service.tokens.issue("user-1")
    answer = get("/api/v1/items/7", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()) == (200, {"id": 7})
    problem(get("/nothing", headers={"Authorization": f"Bearer {token}"}), 404)
    lines = [line for line in running.lines(6) if "item" in line["route"]]
    assert {(line["route"], line["status"]) for line in lines} >= {("/api/v1/items/{item_id}", 200)}
    document = get("/api/v1/openapi.json").json()
    assert document["servers"] == [{"url": root_path.rstrip("/")}]


def test_a_document_names_no_path_where_there_is_none(running: Running) -> None:
    assert "servers" not in running.client.get("/api/v1/openapi.json").json()


# --- addresses ------------------------------------------------------------------------------


def test_a_forwarded_address_is_not_believed_by_default(running: Running) -> None:
    headers = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    assert running.client.get("/address", headers=headers).json() == {
        "address": "127.0.0.1",
        "scheme": "http",
    }


def test_a_forwarded_address_is_believed_from_as_many_hops_as_are_trusted(run: Run) -> None:
    running = run(trusted_proxies=2)
    headers = {
        "X-Forwarded-For": "198.51.100.66, 192.0.2.7, 10.0.0.1",
        "X-Forwarded-Proto": "https",
    }
    assert running.client.get("/address", headers=headers).json() == {
        "address": "192.0.2.7",
        "scheme": "https",
    }


@pytest.mark.parametrize(
    ("hops", "forwarded", "client"),
    [
        (0, "192.0.2.7", "127.0.0.1"),
        (1, "198.51.100.66, 192.0.2.7", "192.0.2.7"),
        (2, "192.0.2.7", "127.0.0.1"),
    ],
)
def test_what_uvicorn_believes_of_a_client_on_this_machine_is_not_heard(
    run: Run, hops: int, forwarded: str, client: str
) -> None:
    running = run(trusted_proxies=hops, server={"proxy_headers": True})
    headers = {"X-Forwarded-For": forwarded, "X-Forwarded-Proto": "https"}
    for method in ("GET", "HEAD"):
        answer = running.client.request(method, "/address", headers=headers)
        assert answer.status_code == 200
    answer = running.client.get("/address", headers=headers)
    assert answer.json() == {"address": client, "scheme": "https" if hops else "http"}


def test_no_rate_limit_is_evaded_by_a_forwarded_address(run: Run) -> None:
    running = run(server={"proxy_headers": True})
    answers = [
        running.client.get("/seldom", headers={"X-Forwarded-For": f"192.0.2.{number}"})
        for number in range(3)
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 429]


@ON_EVENT_LOOPS
def test_no_websocket_has_a_forwarded_address(run: Run) -> None:
    from websockets.sync.client import connect

    port = run(server={"proxy_headers": True}).port
    headers = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    url = f"ws://127.0.0.1:{port}/address"
    with connect(url, additional_headers=headers, proxy=None, open_timeout=PATIENCE_SECONDS) as ws:
        assert ws.recv() == "127.0.0.1 ws"


# --- who asks -------------------------------------------------------------------------------


def test_a_route_that_asks_who_answers_401_to_nobody(running: Running) -> None:
    answer = running.client.get("/me")
    problem(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_token_says_who_asks(run: Run) -> None:
    running = run(jwt_secret_key=SECRET)
    token = running.service.tokens.issue("user-7")
    answer = running.client.get("/me", headers={"Authorization": f"Bearer {token}"})
    assert answer.json() == {"user_id": "user-7"}
    assert running.lines()[-1]["user"] == "user-7"


def test_a_token_that_is_wrong_is_refused_where_none_is_needed(run: Run) -> None:
    running = run(jwt_secret_key=SECRET)
    problem(running.client.get("/context", headers={"Authorization": "Bearer a.b.c"}), 401)


def test_a_token_that_a_service_passes_on_is_believed(run: Run) -> None:
    running = run(jwt_secret_key=SECRET)
    token = running.service.tokens.issue("user-7", typ="work+jwt")
    answer = running.client.get("/me", headers={"X-Mainstay-Token": token})
    assert answer.json() == {"user_id": "user-7"}


def test_a_role_opens_what_it_is_for_and_nothing_else(run: Run) -> None:
    running = run(jwt_secret_key=SECRET)
    user = running.service.tokens.issue("user-7", roles=["user"])
    admin = running.service.tokens.issue("user-8", roles=["admin"])
    problem(running.client.get("/admin-only"), 401)
    problem(running.client.get("/admin-only", headers={"Authorization": f"Bearer {user}"}), 403)
    answer = running.client.get("/admin-only", headers={"Authorization": f"Bearer {admin}"})
    assert answer.json() == {"message": "welcome"}


def test_the_public_half_of_a_private_key_is_there_for_everybody(run: Run) -> None:
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    running = run(auth_required=True, jwt_private_key=pem.decode())
    answer = running.client.get("/.well-known/jwks.json")
    assert answer.status_code == 200
    assert answer.headers["cache-control"].startswith("public, max-age=")
    (key,) = answer.json()["keys"]
    assert (key["kty"], key["alg"], "d" in key) == ("OKP", "EdDSA", False)
    token = running.service.tokens.issue("user-1")
    assert jwt.get_unverified_header(token)["kid"] == key["kid"]
    public = jwt.PyJWK(key)
    assert jwt.decode(token, public, audience="orders", algorithms=["EdDSA"])["sub"] == "user-1"


def test_where_there_is_no_private_key_there_is_none_to_publish(running: Running) -> None:
    problem(running.client.get("/.well-known/jwks.json"), 404)


def test_where_tokens_are_required_every_route_needs_one_unless_it_is_public(run: Run) -> None:
    running = run(auth_required=True, jwt_secret_key=SECRET, options={"public": ("/", "/errors/*")})
    problem(running.client.get("/context"), 401)
    problem(running.client.get("/nothing"), 401)
    problem(running.client.get("/errors/missing"), 404)
    assert running.client.get("/health").status_code == 200
    assert running.client.get("/api/v1/docs").status_code == 200
    assert running.client.get("/api/v1/openapi.json").status_code == 200


# --- limits ---------------------------------------------------------------------------------


def test_a_caller_that_asks_too_often_hears_when_to_come_back(run: Run) -> None:
    running = run(rate_limit="3/hour")
    for _ in range(3):
        assert running.client.get("/context").status_code == 200
    answer = running.client.get("/context")
    problem(answer, 429)
    assert 1 <= int(answer.headers["retry-after"]) <= 3600
    assert answer.headers["ratelimit-policy"] == '"default";q=3;w=3600'
    assert answer.headers["ratelimit"].startswith('"default";r=0;t=')


def test_a_rate_limit_counts_callers_by_themselves(run: Run) -> None:
    running = run(rate_limit="1/hour", jwt_secret_key=SECRET)
    for subject in ("user-1", "user-2"):
        token = running.service.tokens.issue(subject)
        headers = {"Authorization": f"Bearer {token}"}
        assert running.client.get("/me", headers=headers).status_code == 200
        problem(running.client.get("/me", headers=headers), 429)


def test_a_forged_address_evades_no_rate_limit(run: Run) -> None:
    running = run(rate_limit="1/hour")
    statuses = [
        running.client.get("/context", headers={"X-Forwarded-For": f"192.0.2.{i}"}).status_code
        for i in range(3)
    ]
    assert statuses == [200, 429, 429]


def test_health_is_not_rate_limited(run: Run) -> None:
    running = run(rate_limit="1/hour")
    assert [running.client.get("/health").status_code for _ in range(3)] == [200] * 3


def test_a_route_may_have_a_limit_of_its_own(running: Running) -> None:
    statuses = [running.client.get("/seldom").status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert running.client.get("/context").status_code == 200


def test_what_takes_too_long_is_a_504(run: Run) -> None:
    running = run(request_timeout_seconds=0.2)
    problem(running.client.get("/slow?seconds=30"), 504)
    assert running.subject.finished == []


def test_a_caller_may_wait_for_less(running: Running) -> None:
    answer = running.client.get("/slow?seconds=30", headers={"X-Timeout-Seconds": "0.1"})
    problem(answer, 504)


def test_a_body_that_trickles_is_a_408(run: Run) -> None:
    running = run(request_timeout_seconds=0.3)
    head = request(
        b"POST /api/v1/items HTTP/1.1",
        b"Host: a",
        b"Content-Type: application/json",
        b"Content-Length: 100",
        body=b"{",
    )
    assert exchange(running.port, head).startswith(b"HTTP/1.1 408 ")


def are_answered(asking: Sequence[Future[httpx.Response]], count: int) -> bool:
    return sum(each.done() for each in asking) == count


def test_more_requests_than_may_be_in_hand_are_refused(run: Run) -> None:
    running = run(options={"in_flight_limit": 2})
    with ThreadPoolExecutor(6) as threads:
        asking = [threads.submit(running.client.get, "/blocked") for _ in range(6)]
        eventually(partial(are_answered, asking, 4))
        running.subject.released.set()
        answers = [each.result() for each in asking]
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200, 200, 503, 503, 503, 503]
    refused = next(answer for answer in answers if answer.status_code == 503)
    problem(refused, 503)
    assert refused.headers["retry-after"] == "1"


class Slow(MemoryCounts):
    """Counts as a server far away does: everybody waits for it, here until it is told to answer."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()

    def hit(self, rule: Rule, key: str) -> float | None:
        self.answers.wait(PATIENCE_SECONDS)
        return super().hit(rule, key)

    async def ahit(self, rule: Rule, key: str) -> float | None:
        await asyncio.to_thread(self.answers.wait, PATIENCE_SECONDS)
        return super().hit(rule, key)


def test_requests_that_wait_to_be_admitted_are_counted(run: Run) -> None:
    counts = Slow()
    limits = {"in_flight_limit": 2, "rate_limits": RateLimits(counts)}
    running = run(rate_limit="100/hour", options=limits)
    for _ in range(2):  # and each of them is counted off again
        counts.answers.clear()
        with ThreadPoolExecutor(6) as threads:
            asking = [threads.submit(running.client.get, "/context") for _ in range(6)]
            eventually(partial(are_answered, asking, 4))
            counts.answers.set()
            statuses = sorted(each.result().status_code for each in asking)
        assert statuses == [200, 200, 503, 503, 503, 503]
        running.lines(6)  # each has its line when it has been counted off


# --- streams --------------------------------------------------------------------------------


def test_a_stream_passes_as_it_comes(running: Running) -> None:
    with running.client.stream("GET", "/stream") as answer:
        assert answer.headers["x-correlation-id"]
        assert list(answer.iter_lines()) == ["data: 0", "", "data: 1", "", "data: 2", ""]
    eventually(lambda: running.subject.finished == ["stream"])


def test_a_stream_that_breaks_is_cut_off_and_logged(running: Running) -> None:
    with (
        pytest.raises(httpx.RemoteProtocolError),
        running.client.stream("GET", "/breaking") as answer,
    ):
        list(answer.iter_lines())
    (line,) = running.lines()
    assert (line["level"], line["status"]) == ("error", 200)
    assert "out of luck" in line["stack"]


def test_a_stream_may_last_longer_than_a_request(run: Run) -> None:
    # Long enough for the first byte on a slow machine; only the third event has to outlast it.
    running = run(request_timeout_seconds=5.0)
    with running.client.stream("GET", "/stream?outlast=true") as answer:
        assert "data: 2" in list(answer.iter_lines())


@pytest.mark.parametrize("way", ["stream", "stream of a thread"])
def test_no_deadline_holds_for_what_a_stream_does_on_its_way(running: Running, way: str) -> None:
    answer = running.client.get(f"/left/{way}", headers={"X-Timeout-Seconds": "20"})
    assert answer.text == "1000 None"
    assert eventually(lambda: running.subject.finished) == ["1000 None"]


@ON_EVENT_LOOPS
def test_no_deadline_holds_for_what_is_done_in_the_background(running: Running) -> None:
    answer = running.client.get("/left/behind", headers={"X-Timeout-Seconds": "20"})
    left, told = map(float, answer.text.split())
    assert (0 < left <= 20, 0 < told <= 20) == (True, True)
    # By the task, and by a dependency after its `yield`.
    assert eventually(lambda: len(running.subject.finished) == 2)
    assert set(running.subject.finished) == {"1000 None"}


@ON_EVENT_LOOPS
def test_a_websocket_passes_all_stations(running: Running) -> None:
    from websockets.sync.client import connect

    url = f"ws://127.0.0.1:{running.port}/echo"
    headers = {"X-Correlation-ID": "ws-1"}
    with connect(
        url, additional_headers=headers, proxy=None, open_timeout=PATIENCE_SECONDS
    ) as connection:
        assert connection.recv() == "ws-1"
        connection.send("hello")
        assert connection.recv() == "hello"
    (line,) = running.lines()
    assert (line["method"], line["route"], line["status"]) == ("WEBSOCKET", "/echo", 101)
    assert line["correlation_id"] == "ws-1"


@ON_EVENT_LOOPS
def test_more_websockets_than_may_be_open_are_refused(run: Run) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    running = run(options={"socket_limit": 1})
    url = f"ws://127.0.0.1:{running.port}/echo"
    with connect(url, proxy=None, open_timeout=PATIENCE_SECONDS) as first:
        first.recv()
        with pytest.raises(InvalidStatus) as caught:
            connect(url, proxy=None, open_timeout=PATIENCE_SECONDS)
        assert caught.value.response.status_code == 503
        assert running.client.get("/context").status_code == 200
        first.send("bye")
        first.recv()
    running.lines(3)
    with connect(url, proxy=None, open_timeout=PATIENCE_SECONDS) as second:
        assert second.recv()


@ON_EVENT_LOOPS
def test_a_websocket_that_is_not_there_is_a_problem_document(running: Running) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    with pytest.raises(InvalidStatus) as caught:
        connect(f"ws://127.0.0.1:{running.port}/context", proxy=None, open_timeout=PATIENCE_SECONDS)
    answer = caught.value.response
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-correlation-id"].encode() in (answer.body or b"")


@ON_EVENT_LOOPS
def test_a_websocket_that_is_refused_hears_why(running: Running) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    with pytest.raises(InvalidStatus) as caught:
        connect(f"ws://127.0.0.1:{running.port}/refused", proxy=None, open_timeout=PATIENCE_SECONDS)
    assert caught.value.response.status_code == 404
    assert b"there is no such room" in (caught.value.response.body or b"")


# --- what machines ask ----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health", "/ready", "/readyz", "/healthz"])
def test_health_is_answered(running: Running, path: str) -> None:
    answer = running.client.get(path)
    assert answer.status_code == 200
    assert answer.json().keys() == {"status", "service", "version", "checks"}


def test_health_is_logged_for_nobody(running: Running) -> None:
    running.client.get("/health")
    running.client.get("/context")
    assert [line["route"] for line in running.lines()] == ["/context"]


def test_health_is_answered_while_every_thread_is_busy(running: Running) -> None:
    # FastAPI has some forty threads for handlers that block, and an event loop at most 32 for
    # whoever asks it for one; a Flask application works on 60 requests at a time.
    is_on_threads = running.framework == "flask"
    paths = ["/blocked"] * 60 + ([] if is_on_threads else ["/aside"] * 32)
    with ThreadPoolExecutor(len(paths)) as threads:
        asking = [threads.submit(running.client.get, path) for path in paths]
        entered = running.subject.entered
        blocked, aside = (60, 0) if is_on_threads else (40, 32)
        eventually(lambda: entered.count("blocked") >= blocked and entered.count("aside") == aside)
        for path in ("/health", "/ready", "/healthz", "/metrics"):
            assert running.client.get(path).status_code == 200
        assert running.client.get("/context").status_code == (503 if is_on_threads else 200)
        running.subject.released.set()
        assert {answer.result().status_code for answer in asking} == {200}


def test_what_a_check_shows_may_be_of_any_type(running: Running) -> None:
    running.service.health.add(Check("ledger", lambda: {"balance": Decimal("1.5")}))
    answer = running.client.get("/health")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert answer.json()["checks"]["ledger"]["balance"] == "1.5"


def test_metrics_count_requests_by_route_and_not_by_path(running: Running) -> None:
    for path in ("/api/v1/items/1", "/api/v1/items/2", "/no/1", "/no/2"):
        running.client.get(path)
    running.lines(4)  # whose numbers are counted before

    def counted() -> list[str]:
        text = running.client.get("/metrics").text
        return [line for line in text.splitlines() if line.startswith("app_requests_total{")]

    assert counted() == [
        'app_requests_total{method="GET",route="/api/v1/items/{item_id}",status="200"} 2.0',
        'app_requests_total{method="GET",route="unmatched",status="404"} 2.0',
    ]


def test_a_request_is_one_line(running: Running) -> None:
    running.client.get("/api/v1/items/1", headers={"X-Correlation-ID": "line-1"})
    (line,) = running.lines()
    assert line["method"] == "GET"
    assert line["route"] == "/api/v1/items/{item_id}"
    assert (line["status"], line["correlation_id"]) == (200, "line-1")
    assert line["duration_ms"] > 0


def test_a_service_that_drains_closes_connections_and_is_not_ready(running: Running) -> None:
    assert running.client.get("/ready").status_code == 200
    running.service.lifecycle.drain()
    answer = running.client.get("/context")
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert running.client.get("/ready").status_code == 503


# --- scripts of other sites -----------------------------------------------------------------


def test_scripts_of_other_sites_may_not_read_answers_by_default(running: Running) -> None:
    answer = running.client.get("/context", headers={"Origin": "https://shop.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_scripts_of_allowed_sites_may_read_answers_and_refusals(run: Run) -> None:
    running = run(
        cors_allow_origins=("https://shop.example",), auth_required=True, jwt_secret_key=SECRET
    )
    origin = {"Origin": "https://shop.example"}
    asked = running.client.options(
        "/context", headers={**origin, "Access-Control-Request-Method": "GET"}
    )
    assert asked.status_code == 200
    refused = running.client.get("/context", headers=origin)
    problem(refused, 401)
    for answer in (asked, refused):
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        assert answer.headers["x-correlation-id"]


# --- traces ---------------------------------------------------------------------------------


def test_a_request_is_one_server_span_below_its_caller(run: Run) -> None:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    running = run()
    traces = running.service.__dict__["traces"] = Traces(
        running.service.settings, exporter=exporter
    )
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    running.client.get("/api/v1/items/1", headers={"traceparent": parent})
    running.lines()
    traces.close()
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.kind.name) == ("GET /api/v1/items/{item_id}", "SERVER")
    assert span.parent is not None
    assert f"{span.parent.span_id:x}" == "b7ad6b7169203331"
