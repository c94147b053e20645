"""How does a message leave with a commit, and only with it?

It is a row that is written in the transaction of the effect. After the commit a relay hands it to
its broker, at least once and under one id (see :mod:`mainstay.resources.sqlalchemy.relay`); after
a rollback there never was one. What is due later waits here until then, and in no broker.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import orjson
from sqlalchemy import Connection, event
from sqlalchemy.orm import Session, scoped_session

from mainstay import failpoints
from mainstay.context import CORRELATION_ID
from mainstay.errors import Invalid, Overloaded, Unavailable
from mainstay.outgoing import Kind, OutboxMessage
from mainstay.resources.sqlalchemy.database import Database
from mainstay.resources.sqlalchemy.notices import Announcer
from mainstay.resources.sqlalchemy.statements import Both, Statement
from mainstay.resources.sqlalchemy.status import ACCEPT
from mainstay.service import Resource

__all__ = ["Backlog", "Outbox", "RelayBehind"]

LATE_SECONDS = 60.0
"""What has waited for so long says that no relay gets on."""

_LOOK_SECONDS = 1.0
_LOOKS_SHARE = 50
_WRITTEN = "mainstay.outbox"
"""The outboxes that a session has written into, by `Session.info`."""
# Any number will do that no other use of advisory locks has.
_OF_KEYS = 0x6D61696E

_PUT = """
    insert into {{outbox}} (id, kind, name, destination, key, headers, route, body, token,
                            attempts, created_at, due_at)
    values (:id, :kind, :name, :destination, :key, :headers, :route, :body, :token,
            0, {{now}}, {due_at})
"""
_NOW, _LATER = _PUT.format(due_at="{at_once}"), _PUT.format(due_at=":delay+seconds")
# By whether it is due later, and whether a status is kept of it.
_PUTS: Mapping[tuple[bool, bool], Statement | Both] = {
    (False, False): Statement(_NOW),
    (True, False): Statement(_LATER),
    (False, True): Both(ACCEPT, _NOW),
    (True, True): Both(ACCEPT, _LATER),
}
# Positions of one key must be given in the order of the commits. Whoever writes for the key next
# waits until this transaction has ended.
_IN_TURN = Statement("select pg_advisory_xact_lock(:space, hashtext(cast(:key as text)))")
# Is there one more than may wait? Through the index of what waits, and no further. What its queue
# does not take is due again within a minute.
_BEYOND = Statement(
    """
    select 1 from {outbox} where kind = :kind and published_at is null and due_at <= {soon}
    order by due_at, position limit 1 offset :most
    """
)
_OLDEST = Statement(
    """
    select {age} from {outbox} where kind = :kind and published_at is null and due_at <= {at_once}
    order by due_at, position limit 1
    """
)
_COUNT = Statement(
    """
    select count(*), coalesce(sum(case when due_at <= {at_once} then 1 else 0 end), 0)
    from {outbox} where kind = :kind and published_at is null
    """
)
_WITHDRAW = Statement(
    """
    delete from {outbox}
    where kind = :kind and published_at is null and due_at > {at_once} and id = :id
    returning 1
    """
)
# What would send a task again stays until that has ended: its broker may yet lose it.
_PURGE = Statement(
    """
    delete from {outbox} where published_at <= :before+seconds and not (
        kind = 'task' and exists (
            select 1 from {task_status} as held
            where held.task_id = {outbox}.id and held.finished_at is null))
    returning 1
    """
)


class RelayBehind(Unavailable):
    """What was committed a while ago has not left yet."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits of one kind.

    Args:
        ready: Messages that may leave.
        scheduled: Messages that are due later, or are tried again later.
        oldest_seconds: How long ago the oldest that is ready was written.
    """

    ready: int
    scheduled: int
    oldest_seconds: float


class Outbox(Resource):
    """The outbox of a service, in its database.

    Args:
        database: The service's database, the same that the effects are written in.
        limit: How many messages of one kind may be ready and wait; `outbox_limit` of the settings
            by default.
    """

    name = "outbox"
    optional = True

    def __init__(self, database: Database, *, limit: int | None = None) -> None:
        self.database = database
        self._given_limit = limit
        self._full: set[Kind] = set()
        self._look_at: dict[Kind, float] = {}
        self._pid = 0
        self._wakers: list[Callable[[], None]] = []
        self._announcer: Announcer | None = None

    @property
    def is_named(self) -> bool:
        return self.database.is_named

    def put(
        self,
        session: Session | scoped_session[Any],
        message: OutboxMessage,
        *,
        delay_seconds: float = 0.0,
        is_tracked: bool = False,
    ) -> None:
        """Have *message* leave with the commit of *session*.

        Twice is two messages under one id.

        Args:
            delay_seconds: Not sooner than that; a message with a *key* holds up those behind it.
            is_tracked: It is a task whose status can be asked for; from then on it is waiting.

        Raises:
            Invalid: JSON cannot hold the headers.
            Overloaded: More messages wait than may; nothing was written.
        """
        unit: Session = session() if isinstance(session, scoped_session) else session
        connection = unit.connection()
        if delay_seconds <= 0:
            self._admit(connection, message.kind)
        if message.key is not None and connection.dialect.name == "postgresql":
            # What the session has changed is written first, so that everybody takes the locks of
            # rows before this one.
            unit.flush()
            _IN_TURN.run(connection, space=_OF_KEYS, key=message.key).fetchall()
        statement = _PUTS[delay_seconds > 0, is_tracked]
        statement.run(connection, **_values(message), delay=delay_seconds)
        unit.info.setdefault(_WRITTEN, set()).add(self)
        failpoints.reach("outbox.before_commit")

    def withdraw(self, kind: Kind, id: str) -> bool:
        """Take back the message *id* that is not due yet; says whether there was one."""
        with self.database.autocommit() as connection:
            return _WITHDRAW.run(connection, kind=kind, id=id).fetchone() is not None

    def backlog(self, kind: Kind) -> Backlog:
        """Say what waits of one kind; the cost grows with it."""
        with self.database.apart() as connection:
            total, ready = tuple(_COUNT.run(connection, kind=kind).one())
            return Backlog(ready, total - ready, _oldest(connection, kind))

    def purge(self, *, older_than_seconds: float) -> int:
        """Delete what left that long ago, but for tasks that have not ended; returns how many."""
        with self.database.autocommit() as connection:
            return len(_PURGE.run(connection, before=-older_than_seconds).fetchall())

    def on_commit(self, wake: Callable[[], None]) -> None:
        """Call *wake* when this process has committed a message, instead of telling the others."""
        self._here()
        self._wakers.append(wake)

    def forget(self, wake: Callable[[], None]) -> None:
        """Call *wake* no more."""
        if wake in self._wakers:
            self._wakers.remove(wake)

    def tell(self) -> None:
        """Have a relay look: a message of this outbox was committed."""
        self._here()
        if self._wakers:
            for wake in self._wakers:
                wake()
        elif self._announcer is not None:
            self._announcer.announce()

    def ping(self) -> Mapping[str, object] | None:
        with self.database.apart() as connection:
            oldest_seconds = max(_oldest(connection, kind) for kind in get_args(Kind))
        if oldest_seconds > LATE_SECONDS:
            raise RelayBehind("no relay gets on: is one running, and its broker?")
        return {"oldest_seconds": round(oldest_seconds, 3)}

    def close(self) -> None:
        announcer, self._announcer = self._announcer, None
        if announcer is not None and self._pid == os.getpid():
            announcer.close()
        self._pid = 0

    def _admit(self, connection: Connection, kind: Kind) -> None:
        limit = self._limit
        began = time.monotonic()
        if began >= self._look_at.get(kind, 0.0):
            self._look_at[kind] = began + _LOOK_SECONDS  # first, so that of many threads one looks
            is_full = _BEYOND.run(connection, kind=kind, most=limit - 1).fetchone() is not None
            (self._full.add if is_full else self._full.discard)(kind)
            # With much waiting it takes longer: at most a fiftieth of the time goes into it.
            took = time.monotonic() - began
            self._look_at[kind] = began + max(_LOOK_SECONDS, _LOOKS_SHARE * took)
        if kind in self._full:
            raise Overloaded(
                f"{limit} {kind}s wait in the outbox, and no more are taken until some have left",
                retry_after_seconds=5.0,
            )

    @property
    def _limit(self) -> int:
        if self._given_limit is None:
            self._given_limit = self.service.settings.outbox_limit
        return self._given_limit

    def _here(self) -> None:
        """In a forked child the relays and the thread are the parent's."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._wakers = []
            is_heard = self.database.url.startswith("postgresql")
            self._announcer = Announcer(self.database) if is_heard else None


def _committed(session: Session) -> None:
    # SQLAlchemy says of a savepoint, too, that it has committed.
    if _WRITTEN not in session.info or session.in_nested_transaction():
        return
    outboxes: set[Outbox] = session.info.pop(_WRITTEN)
    failpoints.reach("outbox.after_commit")
    for outbox in outboxes:
        outbox.tell()


# Of every session, and here: to listen to one takes five times as long as to make it.
event.listen(Session, "after_commit", _committed)


def _oldest(connection: Connection, kind: Kind) -> float:
    found = _OLDEST.run(connection, kind=kind).fetchone()
    return 0.0 if found is None else max(float(found[0]), 0.0)


def _values(message: OutboxMessage) -> dict[str, Any]:
    return {
        "id": message.id,
        "kind": message.kind,
        "name": message.name,
        "destination": message.destination,
        "key": message.key,
        "headers": _json(message, message.headers),
        "route": _json(message, message.route),
        "body": message.body,
        "token": message.token,
        "correlation_id": message.headers.get(CORRELATION_ID),
    }


def _json(message: OutboxMessage, value: Mapping[str, Any]) -> str:
    try:
        return orjson.dumps(dict(value)).decode()
    except TypeError as error:
        raise Invalid(f"JSON cannot hold the headers of {message.name}: {error}") from error
