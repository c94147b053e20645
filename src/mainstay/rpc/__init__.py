"""Calls: a function of another process, with its result or its error, before a deadline.

Both ends of the wire: :class:`Calls` for who calls, :func:`run` for who serves. Which broker
carries them is said by its URL: RabbitMQ (``amqp://``), Redis or Valkey (``redis://``), or this
very process (``memory://``).
"""

from mainstay.rpc.client import Calls
from mainstay.rpc.entry import Call
from mainstay.rpc.server import Server, run
from mainstay.rpc.statistics import Statistics
from mainstay.rpc.target import Functions

__all__ = ["Call", "Calls", "Functions", "Server", "Statistics", "run"]
