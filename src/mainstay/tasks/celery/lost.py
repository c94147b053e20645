"""Tasks that the broker has lost: reported in the service's health, and sent again.

What finds them is :mod:`mainstay.tasks.celery.reconciler`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from mainstay.service import Resource
from mainstay.tasks.celery.letters import OF_ONE_LIFE
from mainstay.tasks.celery.workflows import AGAIN

if TYPE_CHECKING:
    from mainstay.outgoing import OutboxMessage
    from mainstay.resources.sqlalchemy.lost import Place, Reopened
    from mainstay.resources.sqlalchemy.outbox import Outbox

__all__ = ["LostTasks"]

_AT_A_TIME = 500


class LostTasks(Resource):
    """The lost tasks of a service; while there are any its health is degraded.

    Args:
        outbox: What they are sent again through.
    """

    name = "lost"
    optional = True

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    @property
    def is_named(self) -> bool:
        return self._outbox.is_named

    def count(self) -> int:
        """Return how many there are; 10,000 at most."""
        from mainstay.resources.sqlalchemy import lost

        with self._outbox.database.apart() as connection:
            return lost.count(connection)

    def retry(self, ids: Collection[str]) -> Reopened:
        """Send those of the tasks again that are lost, under their ids: in one transaction."""
        from mainstay.resources.sqlalchemy import lost

        with self._outbox.database.session() as session:
            found = lost.reopen(session, ids)
            for message in found.messages:
                self._outbox.put(session, _again(message))
        return found

    def retry_all(self) -> Iterator[Reopened]:
        """Send all of them again, some hundreds in each transaction."""
        from mainstay.resources.sqlalchemy import lost

        after: Place | None = None
        while True:
            with self._outbox.database.autocommit(read_only=True) as connection:
                places = lost.page(connection, after, _AT_A_TIME)
            if not places:
                return
            yield self.retry([id for _accepted_at, id in places])
            after = places[-1]

    def ping(self) -> Mapping[str, object] | None:
        lost = self.count()
        if not lost:
            return {"tasks": 0}
        detail = f"{lost} tasks are lost: send them again with `mainstay tasks retry --all-lost`"
        return {"status": "degraded", "tasks": lost, "detail": detail}

    def close(self) -> None:
        """Do nothing: the database is another resource."""


def _again(message: OutboxMessage) -> OutboxMessage:
    kept = {name: value for name, value in message.headers.items() if name not in OF_ONE_LIFE}
    # A step keeps the number of its retry: its life is still the same one.
    return replace(message, headers={AGAIN: "0", **kept}, token=None)
