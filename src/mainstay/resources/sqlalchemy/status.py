"""What became of a task? One row a task, in the service's database, for whoever asks later.

A row is written when the task is accepted, in the transaction that accepts it, and then at each
turn of its life. It never moves backwards: a delivery of the past changes nothing once the task
has ended, once it was started for a later attempt, or once a newer delivery has claimed it (a
higher *epoch*).
"""

from __future__ import annotations

import base64
import binascii
import json as plain_json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, RowMapping, Select, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from mainstay.errors import FieldError, Invalid
from mainstay.outgoing import OutboxMessage
from mainstay.resources.sqlalchemy import json, tables
from mainstay.resources.sqlalchemy.database import Database
from mainstay.resources.sqlalchemy.kept import Kept
from mainstay.resources.sqlalchemy.statements import Statement
from mainstay.taskstates import ANY_EPOCH, State

__all__ = ["ACCEPT", "Page", "TaskRecord", "TaskStatuses", "read", "written"]


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What is known of one task.

    Args:
        progress, result, error: Whatever JSON the task gave.
        attempts: Tries begun so far; one that comes back, because its worker was killed, is still
            the same one.
        epoch: Which delivery counts, for tasks that are fenced; else 0.
    """

    task_id: str
    name: str
    queue: str
    state: State
    progress: Any
    result: Any
    error: Any
    attempts: int
    epoch: int
    worker: str | None
    correlation_id: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """Tasks, newest first, and where to go on; ``None`` at the end."""

    items: Sequence[TaskRecord]
    next_cursor: str | None


# Until `accounted_at` a task is known to be somewhere: when it is due, if that is later than its
# last turn, or when a worker last said that it holds it.
_ACCEPT = Statement(
    """
    insert into {task_status}
        (task_id, name, queue, state, attempts, epoch, correlation_id, created_at, updated_at,
         accounted_at, message)
    values (:task_id, :name, :queue, 'waiting', 0, 0, :correlation_id, {now}, {now},
            :delay+seconds, :message)
    on conflict (task_id) do nothing
    returning 1
    """
)

ACCEPT = """
    insert into {task_status} as held
        (task_id, name, queue, state, attempts, epoch, correlation_id, created_at, updated_at,
         accounted_at)
    values (:id, :name, :destination, 'waiting', 0, 0, :correlation_id, {now}, {now},
            :delay+seconds)
    on conflict (task_id) do update set
        state = 'waiting', result = null, error = null, attempts = 0, epoch = 0,
        finished_at = null, updated_at = excluded.updated_at,
        accounted_at = excluded.accounted_at, message = null
    where held.state in ('failure', 'revoked', 'lost')
"""
"""The task that leaves with a commit waits; so does one that had failed, was revoked or lost."""

# Within one attempt; a later attempt comes after all of an earlier one.
_RANK = """
    case {} when 'lost' then 0 when 'waiting' then 0 when 'started' then 1 when 'progress' then 2
            when 'retrying' then 3 else 4 end
"""


def _moving(*, started_at: str = "null", finished_at: str = "null") -> Statement:
    # The row is made where nobody accepted the task through us: any Celery client may send one.
    return Statement(
        f"""
        insert into {{task_status}} as held
            (task_id, name, queue, state, progress, result, error, attempts, epoch, worker,
             correlation_id, created_at, started_at, finished_at, updated_at, accounted_at)
        values (:task_id, :name, :queue, :state, :progress, :result, :error, :attempts, :epoch,
                :worker, :correlation_id, {{now}}, {started_at}, {finished_at}, {{now}}, {{now}})
        on conflict (task_id) do update set
            state = excluded.state,
            name = case when excluded.name = '' then held.name else excluded.name end,
            queue = case when excluded.queue = '' then held.queue else excluded.queue end,
            progress = coalesce(excluded.progress, held.progress),
            result = excluded.result,
            error = excluded.error,
            attempts = case when excluded.attempts > held.attempts
                       then excluded.attempts else held.attempts end,
            epoch = excluded.epoch,
            worker = coalesce(excluded.worker, held.worker),
            correlation_id = coalesce(held.correlation_id, excluded.correlation_id),
            started_at = coalesce(held.started_at, excluded.started_at),
            finished_at = excluded.finished_at,
            updated_at = excluded.updated_at,
            accounted_at = case
                when excluded.state = 'progress' and held.state = 'progress'
                    or excluded.state = 'retrying' and held.accounted_at > excluded.accounted_at
                then held.accounted_at else excluded.accounted_at end,
            message = case when excluded.state in ('success', 'failure', 'revoked')
                      then null else held.message end
        where held.epoch <= excluded.epoch
          and held.state not in ('success', 'failure', 'revoked')
          and (excluded.attempts > held.attempts
               or (excluded.attempts in (0, held.attempts)
                   and {_RANK.format("excluded.state")} >= {_RANK.format("held.state")})
               or excluded.state in ('success', 'failure', 'revoked'))
        returning 1
        """  # noqa: S608 - the parts are written above
    )


_START = _moving(started_at="{now}")
_GO_ON = _moving()
_END = _moving(finished_at="{now}")
_REOPEN = Statement(
    """
    update {task_status}
    set state = 'waiting', result = null, error = null, attempts = 0, epoch = 0,
        finished_at = null, updated_at = {now}, accounted_at = :delay+seconds, message = :message
    where task_id = :task_id and state in ('failure', 'revoked', 'lost')
    returning 1
    """
)
_HELD_BACK = Statement(
    """
    update {task_status} set accounted_at = :delay+seconds
    where task_id = :task_id and finished_at is null
    returning 1
    """
)
_FORGET = Statement("delete from {task_status} where task_id = :task_id returning 1")
# The status of a step is kept for as long as its workflow.
_PURGE = Statement(
    """
    delete from {task_status} as held where held.finished_at <= :before+seconds and not exists (
        select 1 from {workflow_steps} as step where step.task_id = held.task_id)
    returning 1
    """
)


class TaskStatuses:
    """The rows of ``task_status``: one statement a turn.

    Every writer takes the *session* whose transaction the row belongs to, or writes it at once in
    a transaction of its own, and returns whether it changed anything.

    Args:
        kept: The connection for what is written at once; the pool's by default.
    """

    def __init__(self, database: Database, *, kept: Kept | None = None) -> None:
        self._database = database
        self._kept = kept

    def accepted(
        self,
        session: Session | None,
        task_id: str,
        name: str,
        queue: str,
        *,
        correlation_id: str | None = None,
        delay_seconds: float = 0.0,
        message: str | None = None,
    ) -> bool:
        """The task is accepted; what is known of it already stays as it is.

        Args:
            delay_seconds: It is due then.
            message: What sends it again, should the broker lose it.
        """
        return self._write(
            session,
            _ACCEPT,
            {
                "task_id": task_id,
                "name": name,
                "queue": queue,
                "correlation_id": correlation_id,
                "delay": delay_seconds,
                "message": message,
            },
        )

    async def aaccepted(
        self,
        session: AsyncSession | None,
        task_id: str,
        name: str,
        queue: str,
        *,
        correlation_id: str | None = None,
    ) -> bool:
        """As :meth:`accepted`, on this event loop."""
        values = {
            "task_id": task_id,
            "name": name,
            "queue": queue,
            "correlation_id": correlation_id,
            "delay": 0.0,
            "message": None,
        }
        if session is not None:
            return await session.run_sync(lambda held: _did(held.connection(), _ACCEPT, values))
        return await self._database.aautocommit(_did, _ACCEPT, values)

    def record(
        self,
        session: Session | None,
        task_id: str,
        state: State,
        *,
        name: str = "",
        queue: str = "",
        attempt: int = 0,
        progress: object = None,
        result: object = None,
        error: object = None,
        worker: str | None = None,
        correlation_id: str | None = None,
        epoch: int = 0,
    ) -> bool:
        """The task is now in *state*. What is left empty stays as it was.

        Args:
            attempt: Which one tells this, counted from 1; 0 when it is not known.
            progress, result, error: Anything that JSON can hold.
            epoch: Of the delivery that tells this, for tasks that are fenced.
        """
        values = {
            "task_id": task_id,
            "state": state.value,
            "name": name,
            "queue": queue,
            "attempts": attempt,
            "progress": _json(progress),
            "result": _json(result),
            "error": _json(error),
            "worker": worker,
            "correlation_id": correlation_id,
            "epoch": epoch,
        }
        if state.is_final:
            return self._write(session, _END, values)
        return self._write(session, _START if state is State.STARTED else _GO_ON, values)

    def started(
        self,
        task_id: str,
        *,
        name: str = "",
        queue: str = "",
        attempt: int = 1,
        worker: str | None = None,
        correlation_id: str | None = None,
        epoch: int = 0,
        session: Session | None = None,
    ) -> bool:
        """A worker has begun with it, for the *attempt*-th time."""
        return self.record(
            session,
            task_id,
            State.STARTED,
            name=name,
            queue=queue,
            attempt=attempt,
            worker=worker,
            correlation_id=correlation_id,
            epoch=epoch,
        )

    def retrying(
        self,
        task_id: str,
        *,
        error: Mapping[str, object] | None = None,
        attempt: int = 0,
        epoch: int = 0,
        session: Session | None = None,
    ) -> bool:
        """It failed in passing and waits for its next attempt."""
        return self.record(
            session, task_id, State.RETRYING, error=error, attempt=attempt, epoch=epoch
        )

    def progress(
        self,
        task_id: str,
        progress: Mapping[str, object],
        *,
        attempt: int = 0,
        epoch: int = 0,
        session: Session | None = None,
    ) -> bool:
        """It has come this far."""
        return self.record(
            session, task_id, State.PROGRESS, progress=progress, attempt=attempt, epoch=epoch
        )

    def succeeded(
        self,
        task_id: str,
        result: object = None,
        *,
        error: Mapping[str, object] | None = None,
        name: str = "",
        queue: str = "",
        epoch: int = 0,
        session: Session | None = None,
    ) -> bool:
        """It is done; best in the transaction of its effect.

        Args:
            error: Why its result could not be kept, if so.
        """
        return self.record(
            session,
            task_id,
            State.SUCCESS,
            result=result,
            error=error,
            name=name,
            queue=queue,
            epoch=epoch,
        )

    def failed(
        self,
        task_id: str,
        error: Mapping[str, object],
        *,
        name: str = "",
        queue: str = "",
        epoch: int = 0,
        session: Session | None = None,
    ) -> bool:
        """It has failed for good."""
        return self.record(
            session, task_id, State.FAILURE, error=error, name=name, queue=queue, epoch=epoch
        )

    def revoked(
        self,
        task_id: str,
        *,
        error: Mapping[str, object] | None = None,
        name: str = "",
        session: Session | None = None,
    ) -> bool:
        """Somebody has called it off. No fence holds that up: it is a person's word, or, with an
        *error*, the task's own.
        """
        return self.record(session, task_id, State.REVOKED, error=error, name=name, epoch=ANY_EPOCH)

    def reopened(
        self,
        task_id: str,
        *,
        delay_seconds: float = 0.0,
        message: str | None = None,
        session: Session | None = None,
    ) -> bool:
        """It was sent again after it failed, was revoked or lost: it waits as at first."""
        values = {"task_id": task_id, "delay": delay_seconds, "message": message}
        return self._write(session, _REOPEN, values)

    def held_back(self, task_id: str, delay_seconds: float) -> bool:
        """It is tried again, and not sooner than that."""
        return self._write(None, _HELD_BACK, {"task_id": task_id, "delay": delay_seconds})

    def forget(self, task_id: str, *, session: Session | None = None) -> bool:
        """Drop the row: nothing was sent after all."""
        return self._write(session, _FORGET, {"task_id": task_id})

    def get(self, task_id: str) -> TaskRecord | None:
        """Return what is known of a task; ``None`` for an id that was never accepted."""
        with self._database.autocommit(read_only=True) as connection:
            return _get(connection, task_id)

    async def aget(self, task_id: str) -> TaskRecord | None:
        """As :meth:`get`, on this event loop."""
        return await self._database.aautocommit(_get, task_id, read_only=True)

    async def aget_all(self, task_ids: Collection[str]) -> Sequence[TaskRecord]:
        """Return what is known of those tasks, in no order."""
        return await self._database.aautocommit(_get_all, task_ids, read_only=True)

    def list(
        self, *, state: State | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page:
        """Return a page of tasks, newest first.

        Args:
            state: Only those that are there.
            limit: How many; 1 to 500.
            cursor: Where the page before ended.

        Raises:
            Invalid: *limit* or *cursor* does not fit.
        """
        with self._database.autocommit(read_only=True) as connection:
            return _list(connection, state, limit, cursor)

    async def alist(
        self, *, state: State | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page:
        """As :meth:`list`, on this event loop."""
        return await self._database.aautocommit(_list, state, limit, cursor, read_only=True)

    def purge(self, *, older_than_seconds: float) -> int:
        """Delete the rows of tasks that ended that long ago; returns how many."""
        with self._database.autocommit() as connection:
            return len(_PURGE.run(connection, before=-older_than_seconds).fetchall())

    def _write(
        self, session: Session | None, statement: Statement, values: Mapping[str, object]
    ) -> bool:
        if session is not None:
            return _did(session.connection(), statement, values)
        if self._kept is not None:
            return self._kept.run(lambda connection: _did(connection, statement, values))
        with self._database.autocommit() as connection:
            return _did(connection, statement, values)


def written(message: OutboxMessage) -> str | None:
    """Return *message* as a row keeps it, without the token; ``None`` for what JSON cannot hold."""
    kept = {
        "id": message.id,
        "name": message.name,
        "destination": message.destination,
        "headers": {name: each for name, each in message.headers.items() if each is not None},
        "route": message.route,
    }
    try:
        try:
            return orjson.dumps(kept | {"text": message.body.decode()}).decode()
        except UnicodeDecodeError:
            coded = base64.b64encode(message.body).decode()
            return orjson.dumps(kept | {"base64": coded}).decode()
    except TypeError:
        return None  # a header of the author's: the task is sent, and cannot be sent again


def read(kept: str) -> OutboxMessage:
    """Return the message that :func:`written` has kept."""
    found = orjson.loads(kept)
    return OutboxMessage(
        id=found["id"],
        kind="task",
        name=found["name"],
        destination=found["destination"],
        headers=found["headers"],
        route=found["route"],
        body=found["text"].encode() if "text" in found else base64.b64decode(found["base64"]),
    )


def _json(value: object) -> str | None:
    if value is None:
        return None
    text = json.dumps(value)
    if "\\ud" not in text:
        return text
    # Half of a surrogate pair, which can be written and never be read again.
    again = plain_json.loads(text)
    return plain_json.dumps(again, ensure_ascii=False).encode("utf-8", "replace").decode()


def _did(connection: Connection, statement: Statement, values: Mapping[str, object]) -> bool:
    return statement.run(connection, **values).fetchone() is not None


def _get(connection: Connection, task_id: str) -> TaskRecord | None:
    table = tables.table("task_status", connection.dialect.name)
    found = connection.execute(select(table).where(table.c.task_id == task_id)).mappings().first()
    return None if found is None else _record(found)


def _get_all(connection: Connection, task_ids: Collection[str]) -> Sequence[TaskRecord]:
    table = tables.table("task_status", connection.dialect.name)
    found = connection.execute(select(table).where(table.c.task_id.in_(task_ids))).mappings()
    return [_record(row) for row in found]


def _list(connection: Connection, state: State | None, limit: int, cursor: str | None) -> Page:
    if not 1 <= limit <= 500:
        raise Invalid(
            f"a page has 1 to 500 tasks, not {limit}",
            errors=[FieldError("/limit", "a whole number from 1 to 500")],
        )
    table = tables.table("task_status", connection.dialect.name)
    query: Select[Any] = select(table).order_by(table.c.created_at.desc(), table.c.task_id.desc())
    if state is not None:
        query = query.where(table.c.state == state.value)
    if cursor is not None:
        query = query.where(tuple_(table.c.created_at, table.c.task_id) < tuple_(*_after(cursor)))
    rows = connection.execute(query.limit(limit + 1)).mappings().all()
    items = [_record(row) for row in rows[:limit]]
    return Page(items, _cursor(items[-1]) if len(rows) > limit else None)


def _record(row: RowMapping) -> TaskRecord:
    values = {each.name: row[each.name] for each in fields(TaskRecord)}
    return TaskRecord(**{**values, "state": State(values["state"])})


def _cursor(last: TaskRecord) -> str:
    place = orjson.dumps([last.created_at.isoformat(), last.task_id])
    return base64.urlsafe_b64encode(place).decode().rstrip("=")


def _after(cursor: str) -> tuple[datetime, str]:
    try:
        place = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        moment, task_id = place
        return datetime.fromisoformat(moment), str(task_id)
    except (binascii.Error, ValueError, TypeError) as error:
        raise Invalid(
            "the cursor is none that a page of tasks ended with",
            errors=[FieldError("/cursor", "the next_cursor of the page before")],
        ) from error
