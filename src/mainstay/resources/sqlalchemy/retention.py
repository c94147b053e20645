"""What is kept in Mainstay's tables for how long, and what removes it after that?"""

from __future__ import annotations

from mainstay.config import Settings
from mainstay.resources.sqlalchemy import inbox, workflows
from mainstay.resources.sqlalchemy.database import Database
from mainstay.resources.sqlalchemy.idempotency import DatabaseStore
from mainstay.resources.sqlalchemy.outbox import Outbox
from mainstay.resources.sqlalchemy.statements import Statement
from mainstay.resources.sqlalchemy.status import TaskStatuses

__all__ = ["purge"]

_DEAD_LETTERS = Statement("delete from {dead_letters} where died_at <= :before+seconds returning 1")


def purge(database: Database, settings: Settings) -> dict[str, int]:
    """Delete what its retention setting says is old; returns how many rows of each table.

    Keys whose request is under way stay, however old; so do tasks that have not ended, workflows
    of which something is under way, and messages that have not left.
    """
    keys = DatabaseStore(database, ttl_seconds=settings.idempotency_ttl_seconds)
    status = TaskStatuses(database)
    return {
        "inbox": inbox.purge(database, older_than_seconds=settings.inbox_retention_seconds),
        "outbox": Outbox(database).purge(older_than_seconds=settings.outbox_retention_seconds),
        "idempotency_keys": keys.purge(),
        "workflows": workflows.purge(
            database, older_than_seconds=settings.workflow_retention_seconds
        ),
        "task_status": status.purge(older_than_seconds=settings.task_status_retention_seconds),
        "dead_letters": _purge_dead_letters(database, settings.dead_letter_retention_seconds),
    }


def _purge_dead_letters(database: Database, older_than_seconds: float) -> int:
    with database.autocommit() as connection:
        return len(_DEAD_LETTERS.run(connection, before=-older_than_seconds).fetchall())
