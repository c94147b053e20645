"""Which steps of workflows may have dead letters on a broker that a retry has made stale.

A retry notes it in its own transaction, and it stays noted until somebody has gone through all
the letters there. A letter that is stored later than the retry has it noted again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mainstay.resources.sqlalchemy.database import Database
from mainstay.resources.sqlalchemy.statements import Statement

__all__ = ["StaleStep", "claim", "put_off", "stored", "taken"]

# Longer than it takes to go through a million letters: who claims a step may die meanwhile.
_LEASE_SECONDS = 120.0
_MOST = 1_000

_STORED = Statement(
    """
    update {workflow_steps} set letters_due_at = {now}
    where task_id = :task_id and retries > :retries
    returning 1
    """
)
_IS_DUE = Statement("select 1 from {workflow_steps} where letters_due_at <= {began} limit 1")
_CLAIM = Statement(
    """
    update {workflow_steps} set letters_due_at = :lease+seconds
    where task_id in (
        select task_id from {workflow_steps} where letters_due_at <= {began}
        order by letters_due_at limit :most {skip_locked})
    returning task_id, retries, letters_due_at, (
        select queue from {task_status} as status
        where status.task_id = {workflow_steps}.task_id)
    """
)
# Only while nobody has noted it anew, or claimed it since.
_TAKEN = Statement(
    """
    update {workflow_steps} set letters_due_at = null
    where task_id = :task_id and letters_due_at = :claimed
    returning 1
    """
)
_PUT_OFF = Statement(
    """
    update {workflow_steps} set letters_due_at = :pause+seconds
    where task_id = :task_id and letters_due_at = :claimed
    returning 1
    """
)


@dataclass(frozen=True, slots=True)
class StaleStep:
    """A step whose letters of before its last retry are to be taken.

    Args:
        retries: How often it was sent again; letters of fewer retries are stale.
        claimed: Until when it is this claim's, as the database has it.
        queue: Where it was to be done; empty when that is no longer known.
    """

    task_id: str
    retries: int
    claimed: object
    queue: str


def stored(database: Database, task_id: str, retries: int) -> None:
    """The dead letter of a step is stored that was sent again *retries* times: it is stale if the
    step has been sent again since.
    """
    with database.autocommit() as connection:
        _STORED.run(connection, task_id=task_id, retries=retries).fetchall()


def claim(database: Database) -> list[StaleStep]:
    """Return the steps whose letters are to be taken now; nobody else takes them meanwhile."""
    with database.autocommit(read_only=True) as connection:
        if _IS_DUE.run(connection).fetchone() is None:  # on SQLite a write has to wait for others
            return []
    with database.autocommit() as connection:
        rows: Any = _CLAIM.run(connection, lease=_LEASE_SECONDS, most=_MOST).fetchall()
    return [StaleStep(id, retries, claimed, queue or "") for id, retries, claimed, queue in rows]


def taken(database: Database, steps: Iterable[StaleStep]) -> None:
    """No stale letter of *steps* is left."""
    with database.autocommit() as connection:
        for step in steps:
            _TAKEN.run(connection, task_id=step.task_id, claimed=step.claimed).fetchall()


def put_off(database: Database, steps: Iterable[StaleStep], seconds: float) -> None:
    """Some of *steps* may have a stale letter left, to be looked for again so much later."""
    with database.autocommit() as connection:
        for step in steps:
            values = {"task_id": step.task_id, "claimed": step.claimed, "pause": seconds}
            _PUT_OFF.run(connection, **values).fetchall()
