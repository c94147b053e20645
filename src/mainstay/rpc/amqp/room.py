"""What does the room of RabbitMQ offer?"""

from __future__ import annotations

from mainstay.resources.amqp import RabbitMQ
from mainstay.rpc.amqp.client import AmqpLine
from mainstay.rpc.amqp.depth import depth
from mainstay.rpc.amqp.server import AmqpIntake
from mainstay.rpc.room import Room

__all__ = ["ROOM"]


def _ping(url: str) -> None:
    RabbitMQ(url=url).ping()


def _oldest_seconds(_url: str, _queue: str) -> None:
    """RabbitMQ keeps no time of what waits in a quorum queue."""


ROOM = Room(AmqpLine, AmqpIntake, _ping, depth, _oldest_seconds)
