"""Does RabbitMQ take what is published? Not while its memory or its disk is low.

It then reads nothing more from a connection that publishes, and tells that connection alone
(``connection.blocked``, https://www.rabbitmq.com/docs/connection-blocked). So who wants to know
has to publish something: here what no queue takes.
"""

from __future__ import annotations

import amqp
from amqp import spec

__all__ = ["ALARM_MESSAGE", "has_alarm"]

ALARM_MESSAGE = "RabbitMQ has raised an alarm, of its memory or its disk, and takes no messages"

_NO_QUEUE = "mainstay.no-such-queue"


class _Blocked(Exception):
    pass


def has_alarm(connection: amqp.Connection, *, timeout_seconds: float) -> bool:
    """Ask over *connection*, which was opened for this, has sent nothing and is closed next.

    Raises:
        TimeoutError: The broker answers neither yes nor no.
        OSError, amqp.AMQPError: It does not answer.
    """
    connection.on_blocked = _raise
    channel = connection.channel()
    try:
        channel.confirm_select()
        channel.basic_publish(amqp.Message(b""), "", _NO_QUEUE)
        channel.wait([spec.Basic.Ack, spec.Basic.Nack], timeout=timeout_seconds)
    except _Blocked:
        connection.collect()  # it reads no goodbye
        return True
    except amqp.AccessRefused:  # this user publishes elsewhere alone
        return False
    return False


def _raise(_reason: str) -> None:
    raise _Blocked
