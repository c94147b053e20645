"""Where does this application keep the statuses of its tasks?

==============================================  =============================================
the service holds a `Database`                  rows of its ``task_status``
else, Redis is its result backend, its broker   hashes ``mainstay:task:<id>``, for a day after
or its ``redis_url``                            the last change
else, the broker is ``memory://``               this process
else                                            nowhere
==============================================  =============================================
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import orjson

from mainstay.errors import NotConnected
from mainstay.tasks.memory import MemoryStatuses
from mainstay.tasks.status import State, StatusStore, TaskStatus
from mainstay.tasks.telling import dumps, written
from mainstay.tasks.values import unpacked
from mainstay.texts import tls_reason

if TYPE_CHECKING:
    import redis

    from mainstay.outgoing import OutboxMessage
    from mainstay.resources.sqlalchemy import Database
    from mainstay.resources.sqlalchemy.status import TaskRecord
    from mainstay.service import Service

__all__ = ["DatabaseStatuses", "RedisStatuses", "database_of", "store_of"]

_KEPT_SECONDS = 86_400
# The client asks twice, and whoever sends a task is to know within two seconds.
_REPLY_TIMEOUT_SECONDS = 0.9
_MOST_LISTED = 10_000
_NEWEST = "mainstay:tasks"

# KEYS: the task, the list of tasks. ARGV: id, state, attempts, seconds kept, how many are listed,
# then the fields. The rule is `status.is_newer`.
_RECORD = """
local order = {waiting=0, started=1, progress=2, retrying=3, revoked=4, failure=4, success=5}
local final = {success=true, failure=true, revoked=true}
local now = redis.call('TIME')
local stamp = now[1] .. '.' .. string.format('%06d', now[2])
local old, tries = unpack(redis.call('HMGET', KEYS[1], 'state', 'attempts'))
local new, attempt = ARGV[2], tonumber(ARGV[3])
if old then
  tries = tonumber(tries) or 0
  if final[old] then
    local again = new == 'waiting' or (new == 'started' and old == 'failure')
    if old == 'success' or not again then return 0 end
    redis.call('HDEL', KEYS[1], 'result', 'error')
    tries = 0
  elseif not final[new] then
    if attempt < tries then return 0 end
    if attempt == tries and order[new] <= order[old] and not (new == old and new == 'progress') then
      return 0
    end
  end
  if attempt < tries then attempt = tries end
else
  redis.call('HSET', KEYS[1], 'created_at', stamp)
  redis.call('ZADD', KEYS[2], stamp, ARGV[1])
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -tonumber(ARGV[5]) - 1)
end
if new == 'success' then redis.call('HDEL', KEYS[1], 'error') end
redis.call('HSET', KEYS[1], 'state', new, 'attempts', attempt, 'updated_at', stamp, unpack(ARGV, 6))
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
"""


def database_of(service: Service) -> Database | None:
    """Return the database that *service* holds, if any; imports SQLAlchemy only where it is."""
    if "database" not in service.resources or find_spec("sqlalchemy") is None:
        return None
    from mainstay.resources.sqlalchemy import Database

    return service.find(Database)


def store_of(service: Service, *, keeps_connection: bool = False) -> StatusStore | None:
    """Return where the statuses of *service*'s tasks are kept; ``None`` for nowhere.

    Args:
        keeps_connection: Keep one connection for them, where they are in a database.
    """
    database = database_of(service)
    if database is not None and database.is_named:
        return DatabaseStatuses(database, keeps_connection=keeps_connection)
    settings = service.settings
    urls = (settings.celery_result_backend, settings.celery_broker_url, settings.redis_url)
    for url in urls:
        if url is not None and url.startswith(("redis://", "rediss://")):
            from mainstay.resources.redis.client import connect

            return RedisStatuses(connect(url, reply_timeout_seconds=_REPLY_TIMEOUT_SECONDS))
    if (settings.celery_broker_url or "memory://").startswith("memory://"):
        return MemoryStatuses()
    return None


class DatabaseStatuses:
    """Statuses beside the effects: in the service's own database.

    Args:
        keeps_connection: Keep one connection for them, as who tells of each task does.
    """

    def __init__(self, database: Database, *, keeps_connection: bool = False) -> None:
        from mainstay.resources.sqlalchemy.kept import Kept
        from mainstay.resources.sqlalchemy.status import TaskStatuses

        keeps_connection = keeps_connection and database.engine.dialect.name == "postgresql"
        self._rows = TaskStatuses(database, kept=Kept(database) if keeps_connection else None)

    def record(self, status: TaskStatus, *, session: Any = None) -> bool:
        rows, id, epoch = self._rows, status.id, status.epoch
        error = dict(status.error or {})
        correlation_id = status.correlation_id or None
        match status.state:
            case State.WAITING:
                return self.accept(status, session)
            case State.STARTED:
                start = partial(
                    rows.started,
                    id,
                    name=status.name,
                    queue=status.queue,
                    attempt=status.attempts,
                    worker=status.worker or None,
                    correlation_id=correlation_id,
                    epoch=epoch,
                    session=session,
                )
                if start():
                    return True
                kept = rows.get(id)
                failed = kept is not None and kept.state.value == State.FAILURE
                return failed and rows.reopened(id, session=session) and start()
            case State.PROGRESS:
                told, tries = dict(status.meta), status.attempts
                return rows.progress(id, told, attempt=tries, epoch=epoch, session=session)
            case State.RETRYING:
                tries = status.attempts
                return rows.retrying(id, error=error, attempt=tries, epoch=epoch, session=session)
            case State.SUCCESS:
                return rows.succeeded(
                    id,
                    written(status.result),
                    error=error or None,
                    name=status.name,
                    epoch=epoch,
                    session=session,
                )
            case State.FAILURE:
                return rows.failed(
                    id,
                    error,
                    name=status.name,
                    queue=status.queue,
                    epoch=epoch,
                    session=session,
                )
            case State.REVOKED:
                return rows.revoked(id, error=error or None, name=status.name, session=session)
            case State.LOST:
                raise ValueError("only the reconciler can tell that a task is lost")

    def accept(
        self,
        status: TaskStatus,
        session: Any = None,
        *,
        delay_seconds: float = 0.0,
        message: OutboxMessage | None = None,
    ) -> bool:
        """Keep *status* of a task that waits, as :meth:`record` does.

        Args:
            delay_seconds: It is due then.
            message: What sends it again, should the broker lose it.
        """
        from mainstay.resources.sqlalchemy.status import written

        kept = None if message is None else written(message)
        return self._rows.accepted(
            session,
            status.id,
            status.name,
            status.queue,
            correlation_id=status.correlation_id or None,
            delay_seconds=delay_seconds,
            message=kept,
        ) or self._rows.reopened(
            status.id, delay_seconds=delay_seconds, message=kept, session=session
        )

    def held_back(self, id: str, delay_seconds: float) -> bool:
        """The task is tried again, and not sooner than that."""
        return self._rows.held_back(id, delay_seconds)

    def find(self, id: str) -> TaskStatus | None:
        return _of_record(self._rows.get(id))

    async def afind(self, id: str) -> TaskStatus | None:
        return _of_record(await self._rows.aget(id))

    async def afind_all(self, ids: Collection[str]) -> list[TaskStatus | None]:
        return [_of_record(row) for row in await self._rows.aget_all(ids)]

    def newest(self, *, state: State | None = None, limit: int = 50) -> Sequence[TaskStatus]:
        page = self._rows.list(state=state, limit=limit)
        return [status for row in page.items if (status := _of_record(row)) is not None]


class RedisStatuses:
    """Statuses for a service without a database: forgotten a day after their last change."""

    def __init__(self, client: redis.Redis, *, kept_seconds: int = _KEPT_SECONDS) -> None:
        self._client = client
        self._kept_seconds = kept_seconds

    def record(self, status: TaskStatus, *, session: Any = None) -> bool:
        fields: dict[str, str | bytes] = {}
        for name in ("name", "queue", "worker", "correlation_id"):
            if value := getattr(status, name):
                fields[name] = value
        for name, value in (("meta", status.meta), ("error", status.error)):
            if value:
                fields[name] = orjson.dumps(dict(value), default=str)
        if status.state is State.SUCCESS:
            fields["result"] = dumps(written(status.result))
        with _answering():
            answer = self._client.eval(
                _RECORD,
                2,
                f"mainstay:task:{status.id}",
                _NEWEST,
                status.id,
                str(status.state),
                status.attempts,
                self._kept_seconds,
                _MOST_LISTED,
                "id",
                status.id,
                *(part for pair in fields.items() for part in pair),
            )
        return bool(answer)

    def find(self, id: str) -> TaskStatus | None:
        with _answering():
            kept: Any = self._client.hgetall(f"mainstay:task:{id}")
        return _of_hash(kept) if kept else None

    def newest(self, *, state: State | None = None, limit: int = 50) -> Sequence[TaskStatus]:
        found: list[TaskStatus] = []
        first = 0
        while len(found) < limit:
            with _answering():
                ids: Any = self._client.zrevrange(_NEWEST, first, first + 499)
                pipe = self._client.pipeline(transaction=False)
                for id in ids:
                    pipe.hgetall(f"mainstay:task:{id.decode()}")
                kept = pipe.execute()
            if not ids:
                break
            first += 500
            found += (
                status
                for each in kept
                if each and state in (None, (status := _of_hash(each)).state)
            )
        return found[:limit]


@contextmanager
def _answering() -> Iterator[None]:
    import redis

    try:
        yield
    except redis.exceptions.RedisError as error:
        raise NotConnected(
            "Redis, which keeps the statuses of tasks, does not answer: nothing was sent"
            f"{tls_reason(error) or ': is it up?'}"
        ) from error


def _of_hash(kept: Mapping[bytes, bytes]) -> TaskStatus:
    def text(name: bytes) -> str:
        return kept.get(name, b"").decode()

    def parsed(name: bytes) -> Any:
        # orjson reads an integer of more than 64 bits as a float.
        return json.loads(kept[name]) if name in kept else None

    return TaskStatus(
        id=text(b"id"),
        name=text(b"name"),
        state=State(text(b"state")),
        queue=text(b"queue"),
        attempts=int(text(b"attempts") or 0),
        meta=parsed(b"meta") or {},
        result=unpacked(parsed(b"result")),
        error=parsed(b"error"),
        worker=text(b"worker"),
        correlation_id=text(b"correlation_id"),
        updated_at=float(text(b"updated_at") or 0),
    )


def _of_record(row: TaskRecord | None) -> TaskStatus | None:
    if row is None:
        return None
    return TaskStatus(
        id=row.task_id,
        name=row.name,
        state=row.state,
        queue=row.queue,
        attempts=row.attempts,
        meta=row.progress if isinstance(row.progress, dict) else {},
        result=unpacked(row.result),
        error=row.error if isinstance(row.error, dict) and row.error else None,
        worker=row.worker or "",
        correlation_id=row.correlation_id or "",
        updated_at=row.updated_at.timestamp(),
    )
