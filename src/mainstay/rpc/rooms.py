"""Which room serves a broker's URL?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mainstay.errors import Misconfigured
from mainstay.lifecycle import Pulse
from mainstay.rpc.intake import Buried, Delivery, Intake, Terms
from mainstay.rpc.line import Line, Note

if TYPE_CHECKING:
    from mainstay.config import Settings

__all__ = ["broker_url", "depth", "intake", "line", "oldest_seconds", "ping"]

PING_SECONDS = 1.0


def broker_url(settings: Settings, chosen: str | None) -> str:
    """Return the broker of calls: *chosen*, else RabbitMQ, else Redis.

    Raises:
        Misconfigured: None is named.
    """
    url = chosen or settings.rabbitmq_url or settings.redis_url
    if not url:
        raise Misconfigured(
            "calls need a broker and none is named: set RABBITMQ_URL (amqp://…, or memory:// "
            "within one process) or REDIS_URL"
        )
    return str(url)


def line(url: str, note: Note, late: Callable[[], object]) -> Line:
    """Open the client's end; it connects on its own thread."""
    match _scheme(url):
        case "memory":
            from mainstay.rpc.memory import MemoryLine

            return MemoryLine(url, note, late)
        case "amqp":
            from mainstay.rpc.amqp import AmqpLine

            return AmqpLine(url, note, late)
        case _:
            from mainstay.rpc.redis_streams import StreamsLine

            return StreamsLine(url, note, late)


def intake(
    url: str,
    terms: Terms,
    *,
    take: Callable[[Delivery], object],
    buried: Buried,
    note: Note,
    pulse: Pulse | None = None,
) -> Intake:
    """Make the server's end; ``start()`` connects it."""
    match _scheme(url):
        case "memory":
            from mainstay.rpc.memory import MemoryIntake

            return MemoryIntake(url, terms, take=take, buried=buried, note=note, pulse=pulse)
        case "amqp":
            from mainstay.rpc.amqp import AmqpIntake

            return AmqpIntake(url, terms, take=take, buried=buried, note=note, pulse=pulse)
        case _:
            from mainstay.rpc.redis_streams import StreamsIntake

            return StreamsIntake(url, terms, take=take, buried=buried, note=note, pulse=pulse)


def ping(url: str) -> None:
    """Ask the broker, on a connection of its own; raise when it does not answer."""
    match _scheme(url):
        case "memory":
            return
        case "amqp":
            from mainstay.resources.amqp import connect

            connect(url, connect_timeout_seconds=PING_SECONDS, heartbeat_seconds=0).close()
        case _:
            from mainstay.rpc.redis_streams.connection import Connection

            connection = Connection(url, timeout_seconds=PING_SECONDS)
            try:
                connection.ask("PING")
            finally:
                connection.close()


def depth(
    url: str, queue: str, *, management_url: str | None
) -> Mapping[str, Mapping[str, int] | None]:
    """Return what is in *queue* and among its dead letters; ``None`` for what nobody can tell.

    Never raises: a broker that cannot be asked is `None`.
    """
    unknown: dict[str, Mapping[str, int] | None] = {"queue": None, "dead_letters": None}
    try:
        match _scheme(url):
            case "memory":
                from mainstay.rpc import memory

                return memory.depth(url, queue)
            case "amqp":
                from mainstay.rpc import amqp

                if management_url is None:
                    return unknown
                return amqp.depth(url, management_url, queue, timeout_seconds=PING_SECONDS)
            case _:
                from mainstay.rpc import redis_streams

                return redis_streams.depth(url, queue, timeout_seconds=PING_SECONDS)
    except Exception:  # noqa: BLE001 - each client library has its own errors for "no answer"
        return unknown


def oldest_seconds(url: str, queue: str) -> float | None:
    """Return for how long the oldest call has waited in *queue*; ``None`` where nobody can tell.

    On RabbitMQ nobody can: it keeps no time of what waits in a quorum queue. Never raises.
    """
    try:
        match _scheme(url):
            case "memory":
                from mainstay.rpc import memory

                return memory.oldest_seconds(url, queue)
            case "amqp":
                return None
            case _:
                from mainstay.rpc import redis_streams

                return redis_streams.oldest_seconds(url, queue, timeout_seconds=PING_SECONDS)
    except Exception:  # noqa: BLE001 - likewise
        return None


def _scheme(url: str) -> str:
    scheme = urlsplit(url).scheme
    match scheme:
        case "memory":
            return "memory"
        case "amqp" | "amqps":
            return "amqp"
        case "redis" | "rediss" | "unix":
            return "redis"
    raise Misconfigured(
        f"calls do not know the scheme {scheme!r}: use amqp(s)://, redis(s):// or memory://"
    )
