"""Dead letters in the service's own database: what a relay could hand to no broker."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator

import orjson
from sqlalchemy import Connection, RowMapping, delete, func, inspect, select
from sqlalchemy.orm import Session

from mainstay.deadletters import DeadLetter
from mainstay.outgoing import OutboxMessage
from mainstay.resources.sqlalchemy import tables
from mainstay.resources.sqlalchemy.database import Database
from mainstay.resources.sqlalchemy.outbox import Outbox
from mainstay.resources.sqlalchemy.statements import Statement

__all__ = ["DatabaseDeadLetters", "drop", "keep", "letter_of"]

_KEEP = Statement(
    """
    insert into {dead_letters}
        (id, kind, queue, name, reason, detail, died_at, headers, body, envelope)
    values (:id, :kind, :queue, :name, :reason, :detail, {now}, :headers, :body, :envelope)
    """
)
_DROP = Statement("delete from {dead_letters} where position = :position returning 1")
_PAGE = 500


def letter_of(message: OutboxMessage, reason: str, detail: str) -> DeadLetter:
    """Return the dead letter of *message*; the token of whom it was for stays behind."""
    envelope = {"key": message.key, "headers": dict(message.headers), "route": dict(message.route)}
    return DeadLetter(
        id=message.id,
        kind=message.kind,
        queue=message.destination,
        reason=reason,
        name=message.name,
        detail=detail.replace("\x00", "\\x00"),
        headers={name: str(value) for name, value in message.headers.items()},
        body=message.body,
        envelope=orjson.dumps(envelope),
    )


def keep(session: Session, letter: DeadLetter) -> None:
    """Write *letter* in the transaction of *session*."""
    _KEEP.run(
        session.connection(),
        id=letter.id,
        kind=letter.kind,
        queue=letter.queue,
        name=letter.name,
        reason=letter.reason,
        detail=letter.detail,
        headers=orjson.dumps(dict(letter.headers)).decode(),
        body=letter.body,
        envelope=letter.envelope,
    )


def drop(connection: Connection, ids: Collection[str]) -> None:
    """Take the letters of the tasks *ids* out, in the transaction of *connection*."""
    table = tables.table("dead_letters", connection.dialect.name)
    connection.execute(delete(table).where(table.c.kind == "task", table.c.id.in_(ids)))


class DatabaseDeadLetters:
    """The rows of ``dead_letters``; a retry puts a message back into the outbox.

    Args:
        database: The service's database; one that lacks the table has no dead letters.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def queues(self) -> list[str]:
        dialect = self._database.engine.dialect.name
        with self._database.autocommit(read_only=True) as connection:
            name, schema = tables.name_of("dead_letters", dialect), tables.schema_of(dialect)
            if not inspect(connection).has_table(name, schema=schema):
                return []
            queue = tables.table("dead_letters", dialect).c.queue
            return list(connection.execute(select(queue).distinct().order_by(queue)).scalars())

    def letters(self, queue: str) -> Iterator[DeadLetter]:
        table = tables.table("dead_letters", self._database.engine.dialect.name)
        newest = select(func.max(table.c.position)).where(table.c.queue == queue)
        with self._database.autocommit(read_only=True) as connection:
            # One that is put back may die again meanwhile, and comes after those that are there.
            end = connection.execute(newest).scalar() or -1
        there = select(table).where(table.c.queue == queue, table.c.position <= end)
        query = there.order_by(table.c.position).limit(_PAGE)
        last = -1
        while True:
            with self._database.autocommit(read_only=True) as connection:
                page = connection.execute(query.where(table.c.position > last)).mappings().all()
            yield from map(_letter, page)
            if len(page) < _PAGE:
                return
            last = page[-1]["position"]

    def retry(self, queue: str, matching: Callable[[DeadLetter], bool]) -> int:
        outbox = Outbox(self._database, limit=sys.maxsize)
        try:
            return self._take(queue, matching, lambda s, letter: outbox.put(s, _message(letter)))
        finally:
            outbox.close()

    def discard(self, queue: str, matching: Callable[[DeadLetter], bool]) -> int:
        return self._take(queue, matching, lambda _session, _letter: None)

    def _take(
        self,
        queue: str,
        matching: Callable[[DeadLetter], bool],
        act: Callable[[Session, DeadLetter], None],
    ) -> int:
        """Take each letter that matches out of the table and *act* on it, in one transaction."""
        count = 0
        for letter in self.letters(queue):
            if not matching(letter):
                continue
            with self._database.session() as session:
                connection = session.connection()
                if _DROP.run(connection, position=int(letter.position)).fetchone() is not None:
                    act(session, letter)
                    count += 1
        return count


def _letter(row: RowMapping) -> DeadLetter:
    return DeadLetter(
        id=row["id"],
        kind=row["kind"],
        queue=row["queue"],
        reason=row["reason"],
        name=row["name"],
        detail=row["detail"],
        died_at=row["died_at"].timestamp(),
        headers=row["headers"],
        body=bytes(row["body"]),
        envelope=bytes(row["envelope"]),
        position=str(row["position"]),
    )


def _message(letter: DeadLetter) -> OutboxMessage:
    envelope = orjson.loads(letter.envelope)
    return OutboxMessage(
        id=letter.id,
        kind="event" if letter.kind == "event" else "task",
        name=letter.name,
        destination=letter.queue,
        body=letter.body,
        **envelope,
    )
