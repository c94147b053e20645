"""How much is in a queue and among its dead letters? RabbitMQ's management API knows.

For how long the oldest call has waited it does not: RabbitMQ tells that only of classic queues,
and only where it is not too costly.
"""

from __future__ import annotations

from mainstay.deadletters import dead_letters_of
from mainstay.resources.amqp.management import Management
from mainstay.rpc.room import ASK_SECONDS, Depth

__all__ = ["depth"]

_COUNTS = ("messages", "messages_ready", "messages_unacknowledged")


def depth(url: str, queue: str, management_url: str | None) -> Depth:
    """Return messages, ready and unacknowledged, of *queue* and of its dead letters.

    RabbitMQ counts every five seconds, so that old may the numbers be. A queue that is not
    declared yet has none.

    Args:
        url: The broker, for the virtual host.
        management_url: With user and password, where the broker's own do not serve; without it
            nobody can tell.

    Raises:
        OSError, ValueError: The API does not answer, or refuses.
    """
    if management_url is None:
        return {"queue": None, "dead_letters": None}
    management = Management(url, management_url, timeout_seconds=ASK_SECONDS)
    return {
        "queue": _counts(management, queue),
        "dead_letters": _counts(management, dead_letters_of(queue)),
    }


def _counts(management: Management, queue: str) -> dict[str, int]:
    found = management.queue(queue) or {}
    return {count: int(found.get(count) or 0) for count in _COUNTS}
