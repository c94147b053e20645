"""Where is a broker? As messages and logs may say it."""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["address_of"]

_PORTS = {"amqp": 5672, "amqps": 5671, "redis": 6379, "rediss": 6379}


def address_of(url: str) -> str:
    """Return host and port of *url*, the path of its socket, or itself where it is in memory:
    where the broker is, and no secret.
    """
    parts = urlsplit(url)
    match parts.scheme:
        case "unix":
            return parts.path
        case "memory":
            return url
    return f"{parts.hostname or 'localhost'}:{parts.port or _PORTS[parts.scheme]}"
