"""Which steps does a workflow have, and whose turn is it?

A step is a row that knows whom it waits for, and its state is the status of its task. In the
transaction in which a step is done, those that follow count one less to wait for, and whoever
counts nothing any more is sent in that same transaction: so a workflow neither stops nor does a
step twice, whatever dies when.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, func, insert, select, update

from mainstay.errors import Bury, Conflict, NotFound
from mainstay.resources.sqlalchemy import tables
from mainstay.resources.sqlalchemy.database import Database
from mainstay.resources.sqlalchemy.statements import Statement
from mainstay.taskstates import State

__all__ = [
    "NewStep",
    "ReadyStep",
    "StepRecord",
    "StepTold",
    "WorkflowRecord",
    "again",
    "find",
    "keep",
    "passed",
    "purge",
    "ready",
    "states",
]

_KEEP = Statement(
    """
    insert into {workflows} (id, name, correlation_id, created_at, updated_at)
    values (:id, :name, :correlation_id, {now}, {now})
    on conflict (id) do nothing
    returning 1
    """
)
# Whoever writes first has the workflow until its commit: steps that end together take turns.
_HOLD = Statement("update {workflows} set updated_at = {now} where id = :id returning 1")
_AGAIN = Statement(
    """
    update {workflow_steps}
    set attempts_before = attempts_before + :attempts, retries = retries + 1,
        letters_due_at = {now}
    where task_id = :task_id
    returning 1
    """
)
_PURGE = Statement(
    """
    delete from {workflows} as held where held.created_at <= :before+seconds and not exists (
        select 1 from {workflow_steps} as step
        join {task_status} as status on status.task_id = step.task_id
        where step.workflow_id = held.id
          and (status.finished_at is null or status.finished_at > :before+seconds))
    returning 1
    """
)
_PURGE_STEPS = Statement(
    """
    delete from {workflow_steps} as step
    where not exists (select 1 from {workflows} as held where held.id = step.workflow_id)
    returning 1
    """
)
_FAILED = (State.FAILURE.value, State.REVOKED.value)
_STATUS = ("state", "attempts", "error", "started_at", "finished_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewStep:
    """A step, before it is kept.

    Args:
        task_id: The id of its task.
        name: The name of its task.
        signature: What it is sent as, in the words of its room.
        needs: The tasks that it waits for.
        takes: The task whose result it is given, or those whose results it is given as a list;
            ``None`` for no result at all.
    """

    task_id: str
    name: str
    signature: str
    needs: Sequence[str] = ()
    takes: str | Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class ReadyStep:
    """A step whose turn has come.

    Args:
        arguments: What it is given of those before it: nothing, a result, or a list of them.
        retries: How often it was sent before, and sent again by a retry of its workflow.
    """

    workflow_id: str
    task_id: str
    name: str
    signature: str
    arguments: tuple[Any, ...]
    retries: int = 0


StepTold = tuple[str, Sequence[str], State | None]
"""A step's task, those that it waits for, and where it is; ``None`` until it is sent."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What is known of a step; its *state* is ``None`` until it is sent."""

    task_id: str
    name: str
    needs: Sequence[str]
    state: State | None
    attempts: int
    error: Mapping[str, Any] | None
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class WorkflowRecord:
    """What is known of a workflow, its steps in the order in which they were written."""

    id: str
    name: str
    correlation_id: str | None
    created_at: datetime
    steps: Sequence[StepRecord]


def keep(
    connection: Connection,
    id: str,
    name: str,
    steps: Sequence[NewStep],
    *,
    correlation_id: str | None = None,
) -> bool:
    """Write a workflow down; says whether it is a new one."""
    values = {"id": id, "name": name, "correlation_id": correlation_id}
    if _KEEP.run(connection, **values).fetchone() is None:
        return False
    following: dict[str, list[str]] = {step.task_id: [] for step in steps}
    for step in steps:
        for needed in step.needs:
            following[needed].append(step.task_id)
    rows = [
        {
            "task_id": step.task_id,
            "workflow_id": id,
            "position": position,
            "name": step.name,
            "signature": step.signature,
            "needs": list(step.needs),
            "takes": list(step.takes) if isinstance(step.takes, list | tuple) else step.takes,
            "following": following[step.task_id],
            "waits_for": len(step.needs),
            "attempts_before": 0,
        }
        for position, step in enumerate(steps)
    ]
    connection.execute(insert(tables.table("workflow_steps", connection.dialect.name)), rows)
    return True


def ready(connection: Connection, id: str) -> list[ReadyStep]:
    """Return the steps of a new workflow that wait for nobody."""
    step = tables.table("workflow_steps", connection.dialect.name)
    return _ready(connection, and_(step.c.workflow_id == id, step.c.waits_for == 0))


def passed(connection: Connection, task_id: str) -> list[ReadyStep]:
    """Say that a step is done, and return those whose turn has come by that.

    Raises:
        Bury: One of them is to be given a result that was not kept.
    """
    step = tables.table("workflow_steps", connection.dialect.name)
    of = connection.execute(
        select(step.c.workflow_id, step.c.following).where(step.c.task_id == task_id)
    ).first()
    if of is None or not of.following:
        return []
    _HOLD.run(connection, id=of.workflow_id).fetchall()
    follows = step.c.task_id.in_(of.following)
    connection.execute(update(step).where(follows).values(waits_for=step.c.waits_for - 1))
    return _ready(connection, and_(follows, step.c.waits_for == 0))


def again(connection: Connection, id: str) -> list[ReadyStep]:
    """Return the steps that failed, or were called off, to be sent again; it is noted that dead
    letters that they have on a broker are stale now.

    Raises:
        NotFound: There is no such workflow.
        Conflict: None of its steps has failed.
    """
    if _HOLD.run(connection, id=id).fetchone() is None:
        raise NotFound(f"there is no workflow {id}")
    step = tables.table("workflow_steps", connection.dialect.name)
    status = tables.table("task_status", connection.dialect.name)
    failed = connection.execute(
        select(step.c.task_id, status.c.attempts)
        .join(status, status.c.task_id == step.c.task_id)
        .where(step.c.workflow_id == id, status.c.state.in_(_FAILED))
    ).all()
    if not failed:
        raise Conflict(f"no step of workflow {id} has failed: there is nothing to do again")
    for task_id, attempts in failed:
        _AGAIN.run(connection, task_id=task_id, attempts=attempts).fetchall()
    return _ready(connection, step.c.task_id.in_([row.task_id for row in failed]))


def find(connection: Connection, id: str) -> WorkflowRecord | None:
    """Return what is known of a workflow; ``None`` for an id that was never accepted."""
    workflow = tables.table("workflows", connection.dialect.name)
    step = tables.table("workflow_steps", connection.dialect.name)
    status = tables.table("task_status", connection.dialect.name)
    found = connection.execute(select(workflow).where(workflow.c.id == id)).first()
    if found is None:
        return None
    rows = connection.execute(
        select(
            *(step.c.task_id, step.c.name, step.c.needs),
            *(status.c[name] for name in _STATUS),
            (step.c.attempts_before + func.coalesce(status.c.attempts, 0)).label("all_attempts"),
        )
        .outerjoin(status, status.c.task_id == step.c.task_id)
        .where(step.c.workflow_id == id)
        .order_by(step.c.position)
    )
    steps = [_step(row) for row in rows]
    return WorkflowRecord(found.id, found.name, found.correlation_id, found.created_at, steps)


def states(connection: Connection, ids: Collection[str]) -> dict[str, list[StepTold]]:
    """Return where each step of those workflows is, in one statement; ids that are not known are
    left out.
    """
    if not ids:
        return {}
    step = tables.table("workflow_steps", connection.dialect.name)
    status = tables.table("task_status", connection.dialect.name)
    rows = connection.execute(
        select(step.c.workflow_id, step.c.task_id, step.c.needs, status.c.state)
        .outerjoin(status, status.c.task_id == step.c.task_id)
        .where(step.c.workflow_id.in_(ids))
        .order_by(step.c.workflow_id, step.c.position)
    )
    found: defaultdict[str, list[StepTold]] = defaultdict(list)
    for id, task_id, needs, state in rows:
        found[id].append((task_id, needs, None if state is None else State(state)))
    return dict(found)


def purge(database: Database, *, older_than_seconds: float) -> int:
    """Delete the workflows of which nothing is under way, and nothing has ended since then;
    returns how many.
    """
    with database.session() as session:
        gone = len(_PURGE.run(session.connection(), before=-older_than_seconds).fetchall())
        _PURGE_STEPS.run(session.connection()).fetchall()
    return gone


def _ready(connection: Connection, which: ColumnElement[bool]) -> list[ReadyStep]:
    step = tables.table("workflow_steps", connection.dialect.name)
    rows = connection.execute(select(step).where(which).order_by(step.c.position)).all()
    results = _results(connection, {id for row in rows for id in _taken(row.takes)})
    return [
        ReadyStep(
            workflow_id=row.workflow_id,
            task_id=row.task_id,
            name=row.name,
            signature=row.signature,
            arguments=_arguments(row.takes, results),
            retries=row.retries,
        )
        for row in rows
    ]


def _taken(takes: str | Sequence[str] | None) -> Sequence[str]:
    if takes is None:
        return ()
    return (takes,) if isinstance(takes, str) else takes


def _arguments(takes: str | Sequence[str] | None, results: Mapping[str, Any]) -> tuple[Any, ...]:
    if takes is None:
        return ()
    return (results[takes] if isinstance(takes, str) else [results[id] for id in takes],)


def _results(connection: Connection, ids: Collection[str]) -> dict[str, Any]:
    if not ids:
        return {}
    status = tables.table("task_status", connection.dialect.name)
    columns = (status.c.task_id, status.c.name, status.c.result, status.c.error)
    rows = connection.execute(select(*columns).where(status.c.task_id.in_(ids))).all()
    for row in rows:
        if row.error:
            raise Bury(
                f"the next step is to be given what {row.name} returned: {row.error['detail']}"
            )
    return {row.task_id: row.result for row in rows}


def _step(row: Row[*tuple[Any, ...]]) -> StepRecord:
    return StepRecord(
        task_id=row.task_id,
        name=row.name,
        needs=row.needs,
        state=None if row.state is None else State(row.state),
        attempts=row.all_attempts,
        error=row.error or None,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
