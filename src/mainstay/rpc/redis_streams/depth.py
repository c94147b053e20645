"""How much is in a queue and among its dead letters?"""

from __future__ import annotations

from mainstay.deadletters import dead_letters_of
from mainstay.rpc.redis_streams.connection import Connection, RedisError
from mainstay.rpc.redis_streams.layout import GROUP
from mainstay.rpc.room import ASK_SECONDS, Depth

__all__ = ["depth", "oldest_seconds"]


def depth(url: str, queue: str, _management_url: str | None) -> Depth:
    """Return messages, ready and unacknowledged, of *queue* and of its dead letters.

    A call leaves the stream when it is done, so what is not pending is ready; Redis' own `lag` is
    unknown after some deletions.

    Raises:
        OSError, RedisError: Redis does not answer.
    """
    connection = Connection(url, timeout_seconds=ASK_SECONDS)
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


def oldest_seconds(url: str, queue: str) -> float:
    """Return for how long the oldest call has waited that no server has taken; 0 for none.

    The id of an entry says when it was made, on the clock of Redis.

    Raises:
        OSError, RedisError: Redis does not answer.
    """
    connection = Connection(url, timeout_seconds=ASK_SECONDS)
    try:
        if not connection.ask("EXISTS", queue):
            return 0.0
        entries = connection.ask("XRANGE", queue, "(" + _taken(connection, queue), "+", "COUNT", 1)
        seconds, microseconds = connection.ask("TIME")
    finally:
        connection.close()
    if not entries:
        return 0.0
    made_ms = int(entries[0][0].partition(b"-")[0])
    return max(int(seconds) + int(microseconds) / 1e6 - made_ms / 1e3, 0.0)


def _taken(connection: Connection, queue: str) -> str:
    """Return the id of the last entry that a server has taken."""
    for facts in connection.ask("XINFO", "GROUPS", queue):
        known = dict(zip(facts[::2], facts[1::2], strict=False))
        if known[b"name"] == GROUP.encode():
            last: bytes = known[b"last-delivered-id"]
            return last.decode()
    return "0-0"
