"""How much is in a queue and among its dead letters? RabbitMQ's management API knows.

For how long the oldest call has waited it does not: RabbitMQ tells that only of classic queues,
and only where it is not too costly.
"""

from __future__ import annotations

from collections.abc import Mapping

from mainstay.deadletters import dead_letters_of
from mainstay.resources.amqp.management import Management

__all__ = ["depth"]

_COUNTS = ("messages", "messages_ready", "messages_unacknowledged")


def depth(
    url: str, management_url: str, queue: str, *, timeout_seconds: float
) -> Mapping[str, Mapping[str, int]]:
    """Return messages, ready and unacknowledged, of *queue* and of its dead letters.

    RabbitMQ counts every five seconds, so that old may the numbers be. A queue that is not
    declared yet has none.

    Args:
        url: The broker, for the virtual host.
        management_url: With user and password, where the broker's own do not serve.

    Raises:
        OSError, ValueError: The API does not answer, or refuses.
    """
    management = Management(url, management_url, timeout_seconds=timeout_seconds)
    return {
        "queue": _counts(management, queue),
        "dead_letters": _counts(management, dead_letters_of(queue)),
    }


def _counts(management: Management, queue: str) -> dict[str, int]:
    found = management.queue(queue) or {}
    return {count: int(found.get(count) or 0) for count in _COUNTS}
