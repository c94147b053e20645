"""RabbitMQ, held open: connections with our time limits, and publishing that is confirmed."""

from mainstay.extras import require

require("amqp", extra="amqp")

from mainstay.resources.amqp.connection import RabbitMQ, connect  # noqa: E402 - the extra first
from mainstay.resources.amqp.deadletters import AmqpDeadLetters  # noqa: E402 - likewise
from mainstay.resources.amqp.publisher import Publisher  # noqa: E402 - likewise

__all__ = ["AmqpDeadLetters", "Publisher", "RabbitMQ", "connect"]
