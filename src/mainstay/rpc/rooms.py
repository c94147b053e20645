"""Which room serves a broker's URL?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mainstay.errors import Misconfigured
from mainstay.rpc.intake import Intake, Listener, Terms
from mainstay.rpc.line import Line, Note
from mainstay.rpc.room import Depth, Room

if TYPE_CHECKING:
    from mainstay.config import Settings

__all__ = ["broker_url", "depth", "intake", "line", "oldest_seconds", "ping"]


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
    return _room(url).line(url, note, late)


def intake(url: str, terms: Terms, listener: Listener) -> Intake:
    """Make the server's end; ``start()`` connects it."""
    return _room(url).intake(url, terms, listener)


def ping(url: str) -> None:
    """Ask the broker, on a connection of its own; raise when it does not answer."""
    _room(url).ping(url)


def depth(url: str, queue: str, *, management_url: str | None) -> Depth:
    """Return what is in *queue* and among its dead letters; ``None`` for what nobody can tell.

    Never raises: a broker that cannot be asked is `None`.
    """
    try:
        return _room(url).depth(url, queue, management_url)
    except Exception:  # noqa: BLE001 - each client library has its own errors for "no answer"
        return {"queue": None, "dead_letters": None}


def oldest_seconds(url: str, queue: str) -> float | None:
    """Return for how long the oldest call has waited in *queue*; ``None`` where nobody can tell.

    Never raises.
    """
    try:
        return _room(url).oldest_seconds(url, queue)
    except Exception:  # noqa: BLE001 - likewise
        return None


def _room(url: str) -> Room:
    scheme = urlsplit(url).scheme
    match scheme:
        case "memory":
            from mainstay.rpc.memory import ROOM
        case "amqp" | "amqps":
            from mainstay.rpc.amqp import ROOM
        case "redis" | "rediss" | "unix":
            from mainstay.rpc.redis_streams import ROOM
        case _:
            raise Misconfigured(
                f"calls do not know the scheme {scheme!r}: use amqp(s)://, redis(s):// or memory://"
            )
    return ROOM
