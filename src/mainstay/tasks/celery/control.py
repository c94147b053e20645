"""Which remote-control messages does a worker read?

Anybody who reaches the broker may write one. Celery answers an exception by closing its mailbox and
opening another, in the middle of the loop that reads it; so what is no command is left unread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery.app import control
from kombu import pidbox

from mainstay.tasks.celery.profiles import CONFIRM_TIMEOUT_SECONDS
from mainstay.tasks.celery.sending import abandon

__all__ = ["Control"]

logger = logging.getLogger(__name__)


class _Node(pidbox.Node):
    def handle_message(self, body: Any, message: Any = None) -> Any:
        mailbox: Any = self.mailbox
        if not _is_command(body, mailbox.reply_exchange.name):
            logger.warning("a remote-control message was left unread: it is no command")
            return None
        return super().handle_message(body, message)


class _Mailbox(pidbox.Mailbox):
    node_cls = _Node

    @contextmanager
    def producer_or_acquire(self, producer: Any = None, channel: Any = None) -> Iterator[Any]:
        with super().producer_or_acquire(producer, channel) as found:
            yield _Producer(found)


class _Producer:
    """Publishes commands, and their answers, for which the loop of a worker waits.

    Not for ever, as Celery does while RabbitMQ takes nothing. Twice, because the broker has closed
    a connection that was idle since the last one.
    """

    def __init__(self, producer: Any) -> None:
        self._producer = producer

    def publish(self, body: Any, **options: Any) -> None:
        bounds = {"confirm_timeout": CONFIRM_TIMEOUT_SECONDS, "retry_policy": {"max_retries": 1}}
        try:
            self._producer.publish(body, **options, **bounds)
        except Exception:
            abandon(self._producer)
            raise


class Control(control.Control):
    """Celery's `app.control`, with a mailbox that reads commands alone."""

    Mailbox = _Mailbox


def _is_command(body: object, replies: str) -> bool:
    if not isinstance(body, dict) or not isinstance(body.get("method"), str):
        return False
    arguments, reply_to = body.get("arguments"), body.get("reply_to")
    if not (arguments is None or isinstance(arguments, dict)):
        return False
    if not isinstance(body.get("destination"), list | tuple | None):
        return False
    # Through no other exchange: the answer could be put among the tasks of some queue.
    return not reply_to or (
        isinstance(reply_to, dict)
        and reply_to.get("exchange") == replies
        and isinstance(reply_to.get("routing_key"), str)
    )
