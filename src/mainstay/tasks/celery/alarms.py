"""While RabbitMQ has raised an alarm nothing is sent, and its senders hear so at once.

A sender learns of an alarm from its own message, which may be stored when the alarm ends. From
then on the broker is asked once a second, with a message that no queue takes, before anything else
is sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import amqp

from mainstay.config import urls
from mainstay.errors import Overloaded
from mainstay.resources.amqp import connect
from mainstay.resources.amqp.alarms import ALARM_MESSAGE, has_alarm

__all__ = ["Alarm", "Blocked", "sending", "watch"]

_ASK_SECONDS = 1.0
_RETRY_AFTER_SECONDS = 5.0


class Blocked(Exception):
    """The connection that this thread sends on is blocked."""


class _Here(threading.local):
    is_sending = False


_here = _Here()


@contextmanager
def sending() -> Iterator[None]:
    """Within this, a connection that is blocked raises :class:`Blocked` in its thread."""
    _here.is_sending = True
    try:
        yield
    finally:
        _here.is_sending = False


def watch(connection: Any) -> None:
    """Hear of an alarm on *connection*, one of kombu's to RabbitMQ; on any other there is none."""
    opened = getattr(connection, "connection", None)
    if isinstance(opened, amqp.Connection):
        opened.on_blocked = _blocked


def _blocked(_reason: str) -> None:
    if _here.is_sending:
        raise Blocked


class Alarm:
    """What a process knows of an alarm of its broker.

    Args:
        url: Returns the address of the broker, a RabbitMQ.
    """

    def __init__(self, url: Callable[[], str]) -> None:
        self._url = url
        self._is_raised = False
        self._asked_at = 0.0
        self._lock = threading.Lock()

    def seen(self) -> None:
        """Somebody has been blocked."""
        self._is_raised, self._asked_at = True, time.monotonic()

    def check(self, name: str) -> None:
        """Return when there is none.

        Args:
            name: The task that is to be sent.

        Raises:
            Overloaded: There is one: nothing was sent.
        """
        if self._is_raised and self._is_still_raised():
            raise Overloaded(
                f"{name} was not sent: {ALARM_MESSAGE}", retry_after_seconds=_RETRY_AFTER_SECONDS
            )

    def _is_still_raised(self) -> bool:
        if time.monotonic() - self._asked_at < _ASK_SECONDS or not self._lock.acquire(
            blocking=False
        ):
            return True
        try:
            self._is_raised = self._ask()
        finally:
            self._asked_at = time.monotonic()
            self._lock.release()
        return self._is_raised

    def _ask(self) -> bool:
        for url in urls.several(self._url()):
            try:
                with connect(url, heartbeat_seconds=0) as connection:
                    return has_alarm(connection, timeout_seconds=_ASK_SECONDS)
            except TimeoutError:  # one that is low on memory may be slow to say so
                return True
            except (OSError, ValueError, amqp.AMQPError):
                continue  # who sends hears what it is
        return False
