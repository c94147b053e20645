"""How does a message that is delivered twice have one effect?

Every broker delivers some messages twice, and a worker that was thought dead may still be at work.
So the id of what is done is a row in the database of its effect. There are three ways to write it:

================ ==================================================== ============================
`once`           the row first, the effect in the same transaction    a twin waits, then
                                                                      `AlreadyDone`
`deduplicated`   the same on PostgreSQL; on SQLite, where a           the default for tasks
                 transaction would hold the only write lock for as
                 long as the work takes, the row last
`claim`, then    a claim that is committed by itself, with an epoch   for work that commits more
`fenced`         that every later commit of the work shows            than once: the newest
                                                                      delivery wins, an older one
                                                                      is `Fenced`
================ ==================================================== ============================

Work that commits more than once says with `first_time` which of its steps a commit holds, so that
the delivery that takes it over goes on where the other one ended.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from mainstay.errors import AlreadyDone, Fenced
from mainstay.resources.sqlalchemy.database import Database
from mainstay.resources.sqlalchemy.engines import READ_ONLY
from mainstay.resources.sqlalchemy.statements import Statement

__all__ = [
    "aclaim",
    "adeduplicated",
    "afinish",
    "ahold",
    "aonce",
    "claim",
    "deduplicated",
    "fenced",
    "finish",
    "first_time",
    "hold",
    "identity",
    "is_taken_over",
    "once",
    "purge",
]

_ONCE = Statement(
    """
    insert into {inbox} (id, epoch, claimed_at, done_at) values (:id, 1, {now}, {now})
    on conflict (id) do nothing
    returning 1
    """
)
_LOOK = Statement("select 1 from {inbox} where id = :id and done_at is not null")
_CLAIM = Statement(
    """
    insert into {inbox} as held (id, epoch, claimed_at) values (:id, 1, {now})
    on conflict (id) do update set epoch = held.epoch + 1, claimed_at = excluded.claimed_at
    where held.done_at is null
    returning epoch
    """
)
_HOLD = Statement(
    """
    update {inbox} set claimed_at = {now}
    where id = :id and epoch = :epoch and done_at is null
    returning 1
    """
)
_FINISH = Statement(
    """
    update {inbox} set done_at = {now}
    where id = :id and epoch = :epoch and done_at is null
    returning 1
    """
)
_NEWER = Statement("select 1 from {inbox} where id = :id and epoch > :epoch")
_PURGE = Statement("delete from {inbox} where claimed_at <= :before+seconds returning 1")

_ID_CHARACTERS = 255
# Where a session keeps what identifies the fenced work that it is used for.
_WORK = "mainstay_work"


def once(session: Session, id: str) -> None:
    """Say in the transaction of *session* that *id* is done; the first statement of the work.

    A twin that is at work elsewhere is waited for, up to the lock timeout.

    Args:
        id: What identifies the message: its source and its own id.

    Raises:
        AlreadyDone: It was done before; nothing may be done now.
    """
    _once(session.connection(), id)


async def aonce(session: AsyncSession, id: str) -> None:
    """As :func:`once`, on this event loop."""
    await session.run_sync(once, id)


@contextmanager
def deduplicated(session: Session, id: str) -> Iterator[None]:
    """Do the work inside once; the effect and the row are one transaction, that of *session*.

    Raises:
        AlreadyDone: It was done before, or meanwhile by a twin; what was done here is undone.
    """
    if session.get_bind().dialect.name != "sqlite":
        once(session, id)
        yield
        return
    _look_aside(session, id)
    yield
    once(session, id)


@asynccontextmanager
async def adeduplicated(session: AsyncSession, id: str) -> AsyncIterator[None]:
    """As :func:`deduplicated`, on this event loop."""
    if session.get_bind().dialect.name != "sqlite":
        await aonce(session, id)
        yield
        return
    await session.run_sync(_look_aside, id)
    yield
    await aonce(session, id)


def claim(database: Database, id: str) -> int:
    """Claim *id* in a transaction of the claim's own, and return the claim's epoch.

    The newest claim is the one that counts: an older worker that is still at it is fenced off.

    Raises:
        AlreadyDone: It was done before.
    """
    with database.autocommit() as connection:
        return _claim(connection, id)


async def aclaim(database: Database, id: str) -> int:
    """As :func:`claim`, on this event loop."""
    return await database.aautocommit(_claim, id)


def hold(session: Session, id: str, epoch: int) -> None:
    """Make sure, for the transaction of *session*, that the claim still counts.

    Raises:
        Fenced: A newer delivery has claimed it: roll back.
    """
    _expect(_HOLD, session.connection(), id, epoch)


@contextmanager
def fenced(session: Session, id: str, epoch: int) -> Iterator[None]:
    """Have each commit inside show the claim; what is left to commit at the end says *id* is done.

    Raises:
        Fenced: A newer delivery has claimed it: roll back.
    """

    def show(session: Session) -> None:
        hold(session, id, epoch)

    event.listen(session, "before_commit", show)
    session.info[_WORK] = id
    try:
        yield
        finish(session, id, epoch)
    finally:
        del session.info[_WORK]
        event.remove(session, "before_commit", show)


def first_time(session: Session, step: str) -> bool:
    """Say that the next commit of *session* holds *step* of the fenced work at hand, and say
    whether that is news: ``False`` when a delivery before this one has committed it.

        if first_time(session, "charged"):
            session.add(Charge(card, amount))
            session.commit()

    Args:
        step: A name that no other step of the work has.

    Raises:
        LookupError: The work at hand is not fenced.
    """
    work = session.info.get(_WORK)
    if work is None:
        raise LookupError(
            f"there is no fenced work that {step!r} could be a step of: give the task fenced=True"
        )
    id = identity("step", work, step)
    try:
        # A step that is skipped leaves no transaction open behind it.
        _look_aside(session, id)
    except AlreadyDone:
        return False
    return _is_new(session.connection(), id)


async def ahold(session: AsyncSession, id: str, epoch: int) -> None:
    """As :func:`hold`, on this event loop."""
    await session.run_sync(hold, id, epoch)


def finish(session: Session, id: str, epoch: int) -> None:
    """Say that *id* is done; the last statement of the work's last transaction.

    Raises:
        Fenced: A newer delivery has claimed it: roll back.
    """
    _expect(_FINISH, session.connection(), id, epoch)


async def afinish(session: AsyncSession, id: str, epoch: int) -> None:
    """As :func:`finish`, on this event loop."""
    await session.run_sync(finish, id, epoch)


def is_taken_over(database: Database, id: str, epoch: int) -> bool:
    """Has a newer delivery claimed *id*?"""
    with database.autocommit(read_only=True) as connection:
        return _NEWER.run(connection, id=id, epoch=epoch).fetchone() is not None


def purge(database: Database, *, older_than_seconds: float) -> int:
    """Delete the rows of long ago; returns how many.

    Args:
        older_than_seconds: Longer than any broker may keep a message: a message whose row is gone
            is done again.
    """
    with database.autocommit() as connection:
        return len(_PURGE.run(connection, before=-older_than_seconds).fetchall())


def identity(*parts: str) -> str:
    """Return the parts of what identifies a piece of work as one text that a row can hold, and
    that no other parts have.
    """
    whole = ":".join(part.replace("%", "%25").replace(":", "%3A") for part in parts)
    if len(whole) <= _ID_CHARACTERS:
        return whole
    return f"sha256:{hashlib.sha256(whole.encode()).hexdigest()}"


def _once(connection: Connection, id: str) -> None:
    if not _is_new(connection, id):
        raise _already_done(id)


def _is_new(connection: Connection, id: str) -> bool:
    return _ONCE.run(connection, id=id).fetchone() is not None


def _look(connection: Connection, id: str) -> None:
    if _LOOK.run(connection, id=id).fetchone() is not None:
        raise _already_done(id)


def _look_aside(session: Session, id: str) -> None:
    """Look on a connection that only reads, so that *session* takes no lock yet."""
    bind = session.get_bind()
    with bind.engine.connect().execution_options(**{READ_ONLY: True}) as connection:
        _look(connection, id)


def _claim(connection: Connection, id: str) -> int:
    row = _CLAIM.run(connection, id=id).fetchone()
    if row is None:
        raise _already_done(id)
    return int(row[0])


def _expect(statement: Statement, connection: Connection, id: str, epoch: int) -> None:
    if statement.run(connection, id=id, epoch=epoch).fetchone() is None:
        raise Fenced(
            f"{id} was delivered again and taken over: what this delivery did is rolled back",
            work=id,
        )


def _already_done(id: str) -> AlreadyDone:
    return AlreadyDone(f"{id} was done before: this delivery is to be dropped", work=id)
