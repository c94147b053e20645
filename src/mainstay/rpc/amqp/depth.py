"""How much is in a queue and among its dead letters? RabbitMQ's management API knows."""

from __future__ import annotations

import base64
import http.client
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import orjson

from mainstay.deadletters import dead_letters_of

__all__ = ["depth"]

_COUNTS = ("messages", "messages_ready", "messages_unacknowledged")


def depth(
    url: str, management_url: str, queue: str, *, timeout_seconds: float
) -> Mapping[str, Mapping[str, int]]:
    """Return messages, ready and unacknowledged, of *queue* and of its dead letters.

    RabbitMQ counts every five seconds, so that old may the numbers be. A queue that is not
    declared yet has none.

    Args:
        url: The broker, for the virtual host.
        management_url: With user and password, where the broker's own do not serve.

    Raises:
        OSError, http.client.HTTPException, ValueError: The API does not answer, or refuses.
    """
    parts = urlsplit(management_url)
    host, secure = parts.hostname or "localhost", parts.scheme == "https"
    connection: http.client.HTTPConnection
    if secure:
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(
            host, parts.port or 15671, timeout=timeout_seconds, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port or 15672, timeout=timeout_seconds)
    vhost = quote(unquote(urlsplit(url).path[1:]) or "/", safe="")
    prefix = f"{parts.path.rstrip('/')}/api/queues/{vhost}"
    headers = {"Authorization": _login(url, management_url)}
    try:
        return {
            name: _counts(connection, f"{prefix}/{quote(of, safe='')}", headers)
            for name, of in (("queue", queue), ("dead_letters", dead_letters_of(queue)))
        }
    finally:
        connection.close()


def _login(url: str, management_url: str) -> str:
    parts = urlsplit(management_url)
    if not parts.username:
        parts = urlsplit(url)
    login = f"{unquote(parts.username or 'guest')}:{unquote(parts.password or 'guest')}"
    return f"Basic {base64.b64encode(login.encode()).decode()}"


def _counts(
    connection: http.client.HTTPConnection, path: str, headers: Mapping[str, str]
) -> dict[str, int]:
    connection.request("GET", path, headers=dict(headers))
    response = connection.getresponse()
    body = response.read()
    if response.status == http.client.NOT_FOUND:
        return dict.fromkeys(_COUNTS, 0)
    if response.status != http.client.OK:
        raise ValueError(f"the management API answered {response.status}")
    found: dict[str, Any] = orjson.loads(body)
    return {count: int(found.get(count) or 0) for count in _COUNTS}
