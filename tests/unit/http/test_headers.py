from __future__ import annotations

import time

import pytest

from mainstay.errors import Malformed
from mainstay.http.headers import Headers
from mainstay.http.problems import HeadersTooLarge


def test_headers_are_a_mapping_of_text() -> None:
    headers = Headers([(b"x-a", b"1"), (b"content-type", b"text/plain")])
    assert dict(headers) == {"x-a": "1", "content-type": "text/plain"}
    assert headers.get("x-b") is None
    assert headers.get("x-b", "none") == "none"
    assert "content-type" in headers
    assert len(headers) == 2


def test_addresses_that_several_proxies_added_are_one_list() -> None:
    headers = Headers([(b"x-forwarded-for", b"a"), (b"x-b", b"1"), (b"x-forwarded-for", b"b, c")])
    assert headers.get("x-forwarded-for") == "a,b, c"
    assert headers.fault is None


def test_a_context_is_read_from_its_headers() -> None:
    trace, span = "a" * 32, "b" * 16
    raw = [
        (b"x-request-id", b"r-1"),
        (b"traceparent", f"00-{trace}-{span}-00".encode()),
        (b"tracestate", b"x=1"),
    ]
    context = Headers(raw).context(None)
    assert (context.correlation_id, context.trace_id, context.parent_id) == ("r-1", trace, span)
    assert (context.sampled, context.tracestate, context.deadline) == (False, "x=1", None)


@pytest.mark.parametrize(("asked", "granted"), [(None, 30), (b"60", 30), (b"5", 5)])
def test_a_caller_may_only_shorten_the_time(asked: bytes | None, granted: float) -> None:
    headers = Headers([] if asked is None else [(b"x-timeout-seconds", asked)])
    before = time.monotonic()
    deadline = headers.context(30).deadline
    assert deadline is not None
    assert before + granted <= deadline <= time.monotonic() + granted


@pytest.mark.parametrize(("asked", "has_deadline"), [(None, False), (b"60", False), (b"5", True)])
def test_who_asks_for_an_event_stream_gets_no_more_time(
    asked: bytes | None, has_deadline: bool
) -> None:
    raw = [(b"accept", b"text/event-stream, */*")]
    headers = Headers(raw if asked is None else [*raw, (b"x-timeout-seconds", asked)])
    assert (headers.context(30).deadline is not None) == has_deadline


@pytest.mark.parametrize(
    "name", [b"host", b"content-length", b"content-type", b"authorization", b"idempotency-key"]
)
def test_some_headers_may_come_once(name: bytes) -> None:
    headers = Headers([(name, b"a"), (name, b"a")])
    assert isinstance(headers.fault, Malformed)


def test_a_length_beside_chunks_is_a_fault() -> None:
    raw = [(b"content-length", b"1"), (b"transfer-encoding", b"chunked")]
    assert isinstance(Headers(raw).fault, Malformed)


def test_headers_are_read_up_to_a_limit() -> None:
    assert isinstance(Headers([(b"x", b"a" * 40_000)]).fault, HeadersTooLarge)
    assert isinstance(Headers([(b"x" * 40_000, b"a")]).fault, HeadersTooLarge)
    assert isinstance(Headers([(b"x", b"a")] * 101).fault, HeadersTooLarge)
    assert Headers([(b"x-%d" % number, b"a") for number in range(100)]).fault is None
