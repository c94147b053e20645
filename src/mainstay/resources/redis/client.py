"""One blocking client a process and one asyncio client an event loop, made on first use."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from mainstay.errors import Unavailable
from mainstay.resources.redis.batches import Batches
from mainstay.service import Resource

__all__ = ["CONNECT_TIMEOUT_SECONDS", "REPLY_TIMEOUT_SECONDS", "Redis", "connect"]

CONNECT_TIMEOUT_SECONDS = 1.0
REPLY_TIMEOUT_SECONDS = 2.0
PING_TIMEOUT_SECONDS = 1.0
_CONNECTIONS = 100


def connect(
    url: str, *, reply_timeout_seconds: float | None = REPLY_TIMEOUT_SECONDS
) -> redis.Redis:
    """Return a blocking client for *url* with our time limits.

    redis-py 8 tries ten times with growing pauses, so that an outage looks like a hang; here a
    broken connection is tried once more, at once, and then the caller is told.

    Args:
        url: `redis://` or `rediss://`.
        reply_timeout_seconds: How long a reply may take; ``None`` for reads that block on purpose.
    """
    return redis.Redis.from_url(
        url, **_options(reply_timeout_seconds, Retry(ConstantBackoff(0), 1))
    )


def _options(reply_timeout_seconds: float | None, retry: object) -> dict[str, Any]:
    return {
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "socket_timeout": reply_timeout_seconds,
        "socket_keepalive": True,
        "health_check_interval": 30,
        "max_connections": _CONNECTIONS,
        "retry": retry,
    }


class Redis(Resource):
    """The service's Redis.

    Args:
        url: The server; `redis_url` of the settings by default.
        optional: Without it the service is degraded, not unhealthy.
    """

    name = "redis"

    def __init__(self, *, url: str | None = None, optional: bool = False) -> None:
        self._url = url
        self.optional = optional
        self._pid = 0
        self._client: redis.Redis | None = None
        self._aclients: WeakKeyDictionary[asyncio.AbstractEventLoop, redis.asyncio.Redis] = (
            WeakKeyDictionary()
        )
        self._batches: WeakKeyDictionary[asyncio.AbstractEventLoop, Batches] = WeakKeyDictionary()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The server's address.

        Raises:
            Misconfigured: Nobody named one.
        """
        return self._url or str(self.service.settings.need("redis_url"))

    @property
    def is_named(self) -> bool:
        return bool(self._url or self.service.settings.redis_url)

    @property
    def client(self) -> redis.Redis:
        """The blocking client of this process; threads may share it."""
        with self._here():
            if self._client is None:
                self._client = connect(self.url)
            return self._client

    @property
    def aclient(self) -> redis.asyncio.Redis:
        """The asyncio client of the running event loop."""
        loop = asyncio.get_running_loop()
        with self._here():
            client = self._aclients.get(loop)
            if client is None:
                retry = redis.asyncio.retry.Retry(ConstantBackoff(0), 1)
                client = redis.asyncio.Redis.from_url(
                    self.url, **_options(REPLY_TIMEOUT_SECONDS, retry)
                )
                self._aclients[loop] = client
            return client

    @property
    def batches(self) -> Batches:
        """The batches of the running event loop: for what every request asks."""
        loop = asyncio.get_running_loop()
        found = self._batches.get(loop) if self._pid == os.getpid() else None
        if found is None:  # nobody else makes this loop's
            client = self.aclient
            found = self._batches[loop] = Batches(client)
        return found

    def ping(self) -> Mapping[str, object] | None:
        """Ask whether it takes writes.

        Raises:
            Unavailable: It is a replica, or has no memory left.
        """
        with redis.Redis.from_url(
            self.url,
            socket_connect_timeout=PING_TIMEOUT_SECONDS,
            socket_timeout=PING_TIMEOUT_SECONDS,
            single_connection_client=True,
            retry=Retry(ConstantBackoff(0), 0),
        ) as client:
            client.ping()
            _check_writes(client)
        return None

    def close(self) -> None:
        with self._here():
            client, self._client = self._client, None
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        with self._here():
            loop = asyncio.get_running_loop()
            aclient = self._aclients.pop(loop, None)
            self._batches.pop(loop, None)
        if aclient is not None:
            await aclient.aclose()
        self.close()

    def _here(self) -> threading.Lock:
        # The parent's sockets are the parent's: a child that used them would mix up replies. Its
        # lock may have been held by a thread that did not survive the fork.
        if self._pid != os.getpid():
            self._lock, self._client = threading.Lock(), None
            self._aclients, self._batches = WeakKeyDictionary(), WeakKeyDictionary()
            self._pid = os.getpid()
        return self._lock


def _check_writes(client: redis.Redis) -> None:
    try:
        found: Any = client.info("replication", "memory")
    except redis.ResponseError:  # this user may not ask
        return
    if found.get("role") == "slave":
        raise Unavailable("Redis is a replica and takes no writes")
    most = found.get("maxmemory", 0)
    is_kept = found.get("maxmemory_policy") == "noeviction"
    if is_kept and 0 < most <= found.get("used_memory", 0):
        raise Unavailable("Redis has no memory left and takes no writes")
