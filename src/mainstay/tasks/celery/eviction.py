"""Says whether a broker on Redis may evict tasks when its memory is full."""

from __future__ import annotations

from typing import Any

__all__ = ["eviction_of"]


def eviction_of(url: str) -> str | None:
    """Return what is wrong with the Redis at *url*, with what to change; ``None`` when it keeps
    what it has, or does not let its settings be seen.

    Raises:
        redis.exceptions.RedisError: It does not answer.
    """
    import redis

    from mainstay.resources.redis.client import connect

    client = connect(url)
    try:
        # Not CONFIG GET, which hosted servers forbid.
        memory: Any = client.info("memory")
    except redis.exceptions.ResponseError:
        return None
    finally:
        client.close()
    policy, limit = str(memory.get("maxmemory_policy", "")), int(memory.get("maxmemory", 0))
    if not limit or not policy or policy == "noeviction":
        return None
    return (
        f"the broker, a Redis, evicts tasks when its memory is full: maxmemory is {limit} bytes "
        f"with maxmemory-policy {policy}: set maxmemory-policy to noeviction (`redis-cli CONFIG "
        "SET maxmemory-policy noeviction`, and in redis.conf), and keep caches in another Redis"
    )
