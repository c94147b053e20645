from __future__ import annotations

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


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(None, "30.0"), (b"5", "5"), (b"0", "0"), (b"60", "30.0"), (b"-1", "30.0"), (b"nan", "30.0")],
)
def test_a_caller_may_only_shorten_the_time(asked: bytes | None, expected: str) -> None:
    headers = Headers([] if asked is None else [(b"x-timeout-seconds", asked)])
    headers.bound_timeout(30.0, b"30.0")
    assert headers.get("x-timeout-seconds") == expected


@pytest.mark.parametrize(("asked", "expected"), [(b"60", None), (b"5", "5")])
def test_who_asks_for_an_event_stream_gets_no_more_time(asked: bytes, expected: str | None) -> None:
    headers = Headers([(b"accept", b"text/event-stream"), (b"x-timeout-seconds", asked)])
    headers.bound_timeout(30.0, b"30.0")
    assert headers.get("x-timeout-seconds") == expected


@pytest.mark.parametrize(
    "name", [b"host", b"content-length", b"content-type", b"authorization", b"idempotency-key"]
)
def test_some_headers_may_come_once(name: bytes) -> None:
    headers = Headers([(name, b"a"), (name, b"a")])
    headers.bound_timeout(30.0, b"30.0")
    assert isinstance(headers.fault, Malformed)


def test_a_length_beside_chunks_is_a_fault() -> None:
    raw = [(b"content-length", b"1"), (b"transfer-encoding", b"chunked")]
    assert isinstance(Headers(raw).fault, Malformed)


def test_headers_are_read_up_to_a_limit() -> None:
    assert isinstance(Headers([(b"x", b"a" * 40_000)]).fault, HeadersTooLarge)
    assert isinstance(Headers([(b"x", b"a")] * 101).fault, HeadersTooLarge)
    assert Headers([(b"x-%d" % number, b"a") for number in range(100)]).fault is None
