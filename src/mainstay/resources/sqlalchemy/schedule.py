"""Which ticks of a schedule have been, so that each of them fires once?

A row an entry, with the moment of its last tick. Whoever moves that moment on has the tick, and
what it fires is part of the same transaction. All moments are the server's.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from sqlalchemy import Connection, select, update

from mainstay.resources.sqlalchemy import tables
from mainstay.resources.sqlalchemy.statements import Statement

__all__ = ["move", "now", "read"]

_NOW = Statement("select {now}")
_ADD = Statement(
    """
    insert into {schedule} (name, ticked_at) values (:name, {now})
    on conflict (name) do nothing
    returning 1
    """
)


def read(connection: Connection, names: Collection[str]) -> tuple[datetime, dict[str, datetime]]:
    """Return what time it is and when each of *names* ticked last; an entry that is new does now,
    and waits for its first tick.
    """
    schedule = tables.table("schedule", connection.dialect.name)
    query = select(schedule.c.name, schedule.c.ticked_at).where(schedule.c.name.in_(names))
    known = {row.name: row.ticked_at for row in connection.execute(query)}
    if missing := [name for name in names if name not in known]:
        for name in missing:
            _ADD.run(connection, name=name).fetchall()
        known = {row.name: row.ticked_at for row in connection.execute(query)}
    return now(connection), known


def move(connection: Connection, name: str, last: datetime, tick: datetime) -> bool:
    """Take the *tick* that follows the *last* one; says whether nobody else has."""
    schedule = tables.table("schedule", connection.dialect.name)
    taken = connection.execute(
        update(schedule)
        .where(schedule.c.name == name, schedule.c.ticked_at == last)
        .values(ticked_at=tick)
        .returning(schedule.c.name)
    )
    return taken.first() is not None


def now(connection: Connection) -> datetime:
    """Return the server's time."""
    found: datetime | str = _NOW.run(connection).scalar_one()
    if isinstance(found, str):  # SQLite
        return datetime.fromisoformat(found).replace(tzinfo=UTC)
    return found.astimezone(UTC)
