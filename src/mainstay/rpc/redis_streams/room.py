"""What does the room of Redis and Valkey offer?"""

from __future__ import annotations

from mainstay.rpc.redis_streams.client import StreamsLine
from mainstay.rpc.redis_streams.connection import Connection
from mainstay.rpc.redis_streams.depth import depth, oldest_seconds
from mainstay.rpc.redis_streams.server import StreamsIntake
from mainstay.rpc.room import ASK_SECONDS, Room

__all__ = ["ROOM"]


def _ping(url: str) -> None:
    connection = Connection(url, timeout_seconds=ASK_SECONDS)
    try:
        connection.ask("PING")
    finally:
        connection.close()


ROOM = Room(StreamsLine, StreamsIntake, _ping, depth, oldest_seconds)
