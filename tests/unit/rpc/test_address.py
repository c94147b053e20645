"""Where a broker is can be said in a log."""

from __future__ import annotations

import pytest

from mainstay.rpc.address import address_of


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("amqp://user:secret@rabbit/vhost", "rabbit:5672"),
        ("amqps://user:secret@rabbit:5670", "rabbit:5670"),
        ("amqps://", "localhost:5671"),
        ("redis://:secret@redis/0", "redis:6379"),
        ("rediss://user:secret@redis:7000?ssl_ca_certs=/ca", "redis:7000"),
        ("unix://:secret@/run/redis?db=1", "/run/redis"),
    ],
)
def test_an_address_says_where_and_no_secret(url: str, address: str) -> None:
    assert address_of(url) == address
