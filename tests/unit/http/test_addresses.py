from __future__ import annotations

import pytest

from mainstay.http.addresses import client_address, client_scheme

PEER = "10.0.0.9"


@pytest.mark.parametrize(
    ("forwarded", "hops", "expected"),
    [
        (None, 0, PEER),
        ("192.0.2.1", 0, PEER),
        (None, 1, PEER),
        ("192.0.2.1", 1, "192.0.2.1"),
        ("203.0.113.66, 192.0.2.1", 1, "192.0.2.1"),
        ("203.0.113.66, 192.0.2.1, 10.0.0.1", 2, "192.0.2.1"),
        ("192.0.2.1", 2, PEER),
        ("192.0.2.1:4711", 1, "192.0.2.1"),
        ("[2001:DB8::1]:4711", 1, "2001:db8::1"),
        ("2001:db8::1", 1, "2001:db8::1"),
        ("unknown", 1, PEER),
        ("", 1, PEER),
        ("<script>", 1, PEER),
    ],
)
def test_only_what_trusted_proxies_added_is_believed(
    forwarded: str | None, hops: int, expected: str
) -> None:
    assert client_address(PEER, forwarded, hops) == expected


@pytest.mark.parametrize(
    ("scheme", "forwarded", "hops", "expected"),
    [
        ("http", "https", 0, "http"),
        ("http", None, 1, "http"),
        ("http", "https", 1, "https"),
        ("http", "http, https", 1, "https"),
        ("http", "https", 2, "https"),
        ("ws", "https", 1, "wss"),
        ("http", "gopher", 1, "http"),
    ],
)
def test_a_scheme_is_believed_in_the_same_way(
    scheme: str, forwarded: str | None, hops: int, expected: str
) -> None:
    assert client_scheme(scheme, forwarded, hops) == expected
