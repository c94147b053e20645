"""What is declared on RabbitMQ: the queue of requests and where its dead letters go."""

from __future__ import annotations

from typing import Any, Final

from mainstay.deadletters import dead_letters_of
from mainstay.resources.amqp.layout import DEAD_LETTERS
from mainstay.rpc.intake import Terms

__all__ = ["JSON", "REPLIES", "declare"]

JSON: Final = "application/json"
REPLIES: Final = "amq.rabbitmq.reply-to"

# What the broker itself dead-letters and is worth keeping. A call whose deadline came while it
# waited is not: its caller has been told.
_KEPT = ("delivery_limit", "rejected")


def declare(channel: Any, terms: Terms) -> None:
    """Declare the queue of *terms* and its dead letters; the same ones again change nothing.

    Raises:
        amqp.PreconditionFailed: One of them exists with other arguments.
    """
    dead = dead_letters_of(terms.queue)
    # By reason: a headers exchange, because a dead letter keeps the routing key of its call. That
    # it may look at headers that begin with x- is new in RabbitMQ 3.10.
    channel.exchange_declare(dead, "headers", durable=True, auto_delete=False)
    channel.queue_declare(dead, durable=True, auto_delete=False, arguments=dict(DEAD_LETTERS))
    for reason in _KEPT:
        match = {"x-match": "any-with-x", "x-first-death-reason": reason}
        channel.queue_bind(dead, dead, arguments=match)
    arguments: dict[str, Any] = {
        "x-queue-type": terms.queue_type,
        "x-max-length": terms.waiting_limit,
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": dead,
    }
    if terms.queue_type == "quorum":
        arguments["x-delivery-limit"] = terms.delivery_limit
    channel.queue_declare(terms.queue, durable=True, auto_delete=False, arguments=arguments)
