"""Which messages does a relay claim, so that no other relay takes them too?

On PostgreSQL it locks their rows, and others pass over them; the locks end with its transaction,
however that ends. Where order is to be kept, one relay at a time has the turn. On SQLite, where a
transaction would keep every writer waiting while the broker is spoken to, relays take turns by a
lock on a file.

Once in a while a relay looks at all that waits; in between, from where it found the last ones on.
What has left is still in PostgreSQL's indexes while any transaction is older, and to pass over
hundreds of thousands of them takes longer than all the rest.
"""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from mainstay.deadletters import DeadLetter
from mainstay.outgoing import Kind, OutboxMessage
from mainstay.resources.sqlalchemy import deadletters
from mainstay.resources.sqlalchemy.database import Database, let_go
from mainstay.resources.sqlalchemy.failures import translated
from mainstay.resources.sqlalchemy.statements import Statement

__all__ = ["Batch", "Claims", "Row", "bury", "claims_of", "mark", "put_off"]

# A relay that is stopped in the middle of a batch must not keep it from the others.
_FROZEN_SECONDS = 30.0
# How far back one looks in between: as many may be written meanwhile by a transaction that takes
# its time.
_SLACK = 1_000
_DUE_AT_A_TIME = 1_000
# A look at all takes a twentieth of the time at most.
_WHOLE_LOOKS_SHARE = 20

# A mark that a crash of the server takes back means that the message is published again, as after
# any other crash: nobody need wait for the disk.
_UNSYNCED = "set local synchronous_commit = off"
_TURN = Statement("select pg_try_advisory_xact_lock(:turn)")
_FALL_DUE = Statement(
    """
    update {outbox} set due_at = {at_once}
    where position in (
        select position from {outbox}
        where kind = :kind and published_at is null and due_at > {at_once} and due_at <= {began}
        order by due_at limit :most {skip_locked})
    returning 1
    """
)
# What is about one thing waits behind what was put off, and what is not looked at now.
_READY = """
    select position, attempts, unrouted, id, kind, name, destination, key,
           cast(headers as text), cast(route as text), body, token
    from {{outbox}} as message
    where kind = :kind and published_at is null and {found}
      and not exists (
          select 1 from {{outbox}} as held
          where held.key = message.key and held.published_at is null
            and held.position < message.position
            and (held.due_at > {{at_once}} or held.position <= :floor))
    order by {order} limit :most {{skip_locked}}
"""
# The order is that of an index: see `tables`.
_ALL = Statement(_READY.format(found="due_at <= {at_once}", order="due_at, position"))
_FURTHER_ON = Statement(
    _READY.format(found="due_at = {at_once} and position > :floor", order="position")
)
_MARK = Statement(
    "update {outbox} set published_at = {now}, token = null where position in ({positions})"
)
_PUT_OFF = Statement(
    """
    update {outbox}
    set attempts = attempts + 1, unrouted = unrouted + :unrouted, due_at = :pause+seconds
    where position = :position
    """
)
_DROP = Statement("delete from {outbox} where position = :position")


@dataclass(frozen=True, slots=True)
class Row:
    """One message, and where it waits.

    Args:
        attempts: How often it was refused.
        unrouted: How often of these because there was no queue for it.
    """

    position: int
    attempts: int
    unrouted: int
    message: OutboxMessage


@dataclass(frozen=True, slots=True)
class Batch:
    """What is this relay's, for as long as it holds it.

    Args:
        rows: The messages, in the order of their positions.
        unit: Opens the unit of work in which is written what became of them.
        had_turn: Was it asked at all? Not while another relay has the turn.
    """

    rows: Sequence[Row]
    unit: Callable[[], AbstractContextManager[Session]]
    had_turn: bool = True


class Claims(Protocol):
    """The claims of one relay, which it holds one after the other; used by one thread."""

    def batch(self, most: int) -> AbstractContextManager[Batch]:
        """Claim *most* messages at most; let go of them at the end."""

    def close(self) -> None:
        """Let the connection go; the next claim opens another."""


def claims_of(database: Database, kind: Kind, *, in_order: bool, look_seconds: float) -> Claims:
    """Return what claims the messages of one *kind*.

    Args:
        in_order: No other relay claims any of that kind meanwhile.
        look_seconds: How often to look at all that waits, and for what has fallen due.
    """
    look = _Look(kind, look_seconds)
    if database.engine.dialect.name == "postgresql":
        return _ByLock(database, look, in_order=in_order)
    return _InTurn(database, look)


class _Look:
    """What a relay knows of where to look."""

    def __init__(self, kind: Kind, seconds: float) -> None:
        self.kind = kind
        self._seconds = seconds
        self._whole_at = 0.0
        self._floor = 0

    @property
    def is_whole(self) -> bool:
        """Is it time to look at all that waits?"""
        return time.monotonic() >= self._whole_at

    def let_fall_due(self, connection: Connection) -> bool:
        """Have leave what is due by now; says whether there is more of it."""
        found = _FALL_DUE.run(connection, kind=self.kind, most=_DUE_AT_A_TIME).fetchall()
        return len(found) == _DUE_AT_A_TIME

    def ready(self, connection: Connection, most: int, *, again: bool = False) -> list[Row]:
        """Return what may leave, the oldest first.

        Args:
            again: When it is time to look at all that waits: it will be the next time, too.
        """
        began = time.monotonic()
        if self.is_whole:
            found = _ALL.run(connection, kind=self.kind, floor=0, most=most).fetchall()
            took = time.monotonic() - began
            if not again:
                self._whole_at = began + max(self._seconds, _WHOLE_LOOKS_SHARE * took)
        else:
            looked = _FURTHER_ON.run(connection, kind=self.kind, floor=self._floor, most=most)
            found = looked.fetchall()
        rows = [_row(*tuple(each)) for each in found]
        if rows:
            self._floor = max(rows[0].position - _SLACK, 0)
        return rows


class _ByLock:
    """PostgreSQL. The connection is the relay's own, so that looking costs as little as can be."""

    def __init__(self, database: Database, look: _Look, *, in_order: bool) -> None:
        self._database = database
        self._look = look
        self._turn = _turn_of(look.kind) if in_order else None
        self._connection: Connection | None = None

    @contextmanager
    def batch(self, most: int) -> Iterator[Batch]:
        try:
            with translated(), Session(self._open(), expire_on_commit=False) as session:
                batch = self._claimed(session, most)
                yield batch
                if batch.rows:
                    session.connection().exec_driver_sql(_UNSYNCED)
                session.commit()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        connection, self._connection = self._connection, None
        let_go(connection)

    def _claimed(self, session: Session, most: int) -> Batch:
        connection = session.connection()
        # By a statement before the one that looks, which then sees what the turn before has
        # written.
        if self._turn is not None and not _TURN.run(connection, turn=self._turn).scalar_one():
            return Batch([], lambda: nullcontext(session), had_turn=False)
        more_is_due = self._look.is_whole and self._look.let_fall_due(connection)
        rows = self._look.ready(connection, most, again=more_is_due)
        return Batch(rows, lambda: nullcontext(session))

    def _open(self) -> Connection:
        if self._connection is None:
            connection = self._database.apart(idle_in_transaction_seconds=_FROZEN_SECONDS)
            self._connection = connection.execution_options(isolation_level="READ COMMITTED")
        return self._connection


class _InTurn:
    """SQLite."""

    def __init__(self, database: Database, look: _Look) -> None:
        self._database = database
        self._look = look

    @contextmanager
    def batch(self, most: int) -> Iterator[Batch]:
        database, look = self._database, self._look
        with _turn_by_file(database.engine.url.database, look.kind) as has_turn:
            rows: list[Row] = []
            more_is_due = False
            if has_turn and look.is_whole:
                with database.autocommit() as connection:
                    more_is_due = look.let_fall_due(connection)
            if has_turn:
                with database.autocommit(read_only=True) as connection:
                    rows = look.ready(connection, most, again=more_is_due)
            yield Batch(rows, database.session, had_turn=has_turn)

    def close(self) -> None:
        """Nothing is held between two claims."""


def mark(session: Session, rows: Sequence[Row]) -> None:
    """Note that *rows* have left."""
    positions = orjson.dumps([row.position for row in rows]).decode()
    _MARK.run(session.connection(), positions=positions)


def put_off(session: Session, row: Row, seconds: float, *, unrouted: bool = False) -> None:
    """Note that *row* was refused, and leave it alone for so long.

    Args:
        unrouted: There was no queue for it.
    """
    connection = session.connection()
    _PUT_OFF.run(connection, pause=seconds, unrouted=int(unrouted), position=row.position)


def bury(session: Session, row: Row, reason: str, detail: str) -> DeadLetter:
    """Make a dead letter of *row*, in the database, and return it."""
    letter = deadletters.letter_of(row.message, reason, detail)
    deadletters.keep(session, letter)
    _DROP.run(session.connection(), position=row.position)
    return letter


def _row(
    position: int,
    attempts: int,
    unrouted: int,
    id: str,
    kind: Kind,
    name: str,
    destination: str,
    key: str | None,
    headers: str,
    route: str,
    body: bytes,
    token: str | None,
) -> Row:
    message = OutboxMessage(
        id=id,
        kind=kind,
        name=name,
        destination=destination,
        key=key,
        headers=_table(headers),
        route=_table(route),
        body=bytes(body),
        token=token,
    )
    return Row(position, attempts, unrouted, message)


def _table(text: str) -> Mapping[str, Any]:
    """Read a JSON object; what is none must not hold up the other messages."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _turn_of(kind: str) -> int:
    digest = hashlib.sha256(f"mainstay.relay.{kind}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


@contextmanager
def _turn_by_file(database: str | None, kind: str) -> Iterator[bool]:
    """Have the turn, unless another process has it; a database in memory has no other process."""
    if database in (None, "", ":memory:"):
        yield True
        return
    with Path(f"{database}-relay-{kind}").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
