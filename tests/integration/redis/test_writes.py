"""A server that answers and takes no writes is not well."""

from __future__ import annotations

import pytest

from mainstay.errors import Unavailable
from mainstay.resources.redis import Redis
from mainstay.testing import servers


@pytest.mark.parametrize(
    ("begin", "end", "said"),
    [
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "is a replica"),
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "no memory left"),
    ],
)
def test_a_redis_that_takes_no_writes_is_unhealthy(
    redis_server: servers.Redis, redis_url: str, begin: str, end: str, said: str
) -> None:
    held = Redis(url=redis_url)
    held.ping()
    redis_server.command(begin)
    try:
        with pytest.raises(Unavailable, match=said):
            held.ping()
    finally:
        redis_server.command(end)
    held.ping()


def test_a_user_who_may_not_ask_finds_it_well(redis_server: servers.Redis, redis_url: str) -> None:
    redis_server.command("ACL SETUSER plain on >word ~* +ping +client")
    try:
        Redis(url=redis_url.replace(f":{redis_server.password}@", "plain:word@")).ping()
    finally:
        redis_server.command("ACL DELUSER plain")
