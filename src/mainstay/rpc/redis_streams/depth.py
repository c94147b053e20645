"""How much is in a queue and among its dead letters?"""

from __future__ import annotations

from collections.abc import Mapping

from mainstay.deadletters import dead_letters_of
from mainstay.rpc.redis_streams.connection import Connection, RedisError
from mainstay.rpc.redis_streams.layout import GROUP

__all__ = ["depth"]


def depth(url: str, queue: str, *, timeout_seconds: float) -> Mapping[str, Mapping[str, int]]:
    """Return messages, ready and unacknowledged, of *queue* and of its dead letters.

    A call leaves the stream when it is done, so what is not pending is ready; Redis' own `lag` is
    unknown after some deletions.

    Raises:
        OSError, RedisError: Redis does not answer.
    """
    connection = Connection(url, timeout_seconds=timeout_seconds)
    try:
        messages = connection.ask("XLEN", queue)
        try:
            pending = connection.ask("XPENDING", queue, GROUP)[0] if messages else 0
        except RedisError:  # no server has been there yet
            pending = 0
        dead = connection.ask("XLEN", dead_letters_of(queue))
    finally:
        connection.close()
    pending = min(pending, messages)
    return {
        "queue": {
            "messages": messages,
            "messages_ready": messages - pending,
            "messages_unacknowledged": pending,
        },
        "dead_letters": {
            "messages": dead,
            "messages_ready": dead,
            "messages_unacknowledged": 0,
        },
    }
