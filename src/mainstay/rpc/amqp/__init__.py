"""Calls over RabbitMQ: a quorum queue of requests, and replies straight to the caller.

==================  ============================================================================
``<queue>``         a quorum queue: bounded, refuses what it cannot hold, counts deliveries
``<queue>_dlq``     its dead letters, in a quorum queue; and the exchange through which the
                    broker itself adds those whose deliveries were too many
==================  ============================================================================

Replies use `direct reply-to <https://www.rabbitmq.com/docs/direct-reply-to>`_: no queue to
declare, none to leak.
"""

from mainstay.extras import require

require("amqp", extra="amqp")

from mainstay.rpc.amqp.room import ROOM  # noqa: E402 - the extra is checked first

__all__ = ["ROOM"]
