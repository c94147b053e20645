"""Who fires a tick of the schedule, when several beats run?

==============================  ================================================================
the service holds a `Database`  the tick and what it sends are one transaction: once, and never
                                lost
else, it has Redis              the tick is taken, then sent: once at most; a beat that dies in
                                between loses that one tick
else                            whoever sees it: then one beat alone may run
==============================  ================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from mainstay.context import new_id
from mainstay.errors import Disconnected, Unconfirmed
from mainstay.tasks.celery.statuses import database_of

if TYPE_CHECKING:
    import redis

    from mainstay.resources.sqlalchemy import Database
    from mainstay.service import Service

__all__ = ["DatabaseTicks", "OwnTicks", "RedisTicks", "Ticks", "ticks_of"]

Fire = Callable[[Any], object]
"""Sends what a tick is for, with the session it is given, if any."""

_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# KEYS: the schedule. ARGV: the names. Answers the time, then of each its last tick.
_READ = """
local now = redis.call('TIME')
local found = {now[1] .. string.format('%06d', now[2])}
for i, name in ipairs(ARGV) do
  redis.call('HSETNX', KEYS[1], name, found[1] .. ':')
  found[i + 1] = redis.call('HGET', KEYS[1], name)
end
return found
"""
# KEYS: likewise. ARGV: name, last tick, this tick and who takes it. What was asked twice, because
# the answer did not come, is answered alike.
_MOVE = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held == ARGV[3] then return 1 end
if not held or string.match(held, '^%d+') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""


class Ticks(Protocol):
    """Where it is kept which ticks have been."""

    def read(self, names: Collection[str]) -> tuple[datetime, dict[str, datetime]]:
        """Return what time it is there, and when each of *names* ticked last; one that is new is
        taken to have done so now.
        """

    def take(self, name: str, last: datetime, tick: datetime, fire: Fire) -> bool:
        """Take the *tick* that follows the *last* one and *fire* it, unless somebody else has
        taken it; says whether it was taken.
        """


def ticks_of(service: Service) -> Ticks:
    """Return where the ticks of *service*'s schedule are kept."""
    database = database_of(service)
    if database is not None and database.is_named:
        return DatabaseTicks(database)
    settings = service.settings
    for url in (settings.celery_broker_url, settings.redis_url, settings.celery_result_backend):
        if url is not None and url.startswith(("redis://", "rediss://")):
            from mainstay.resources.redis.client import connect

            return RedisTicks(connect(url), service.name)
    return OwnTicks()


class DatabaseTicks:
    """Ticks in the service's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, names: Collection[str]) -> tuple[datetime, dict[str, datetime]]:
        from mainstay.resources.sqlalchemy import schedule

        with self._database.autocommit() as connection:
            return schedule.read(connection, names)

    def take(self, name: str, last: datetime, tick: datetime, fire: Fire) -> bool:
        from mainstay.resources.sqlalchemy import schedule

        with self._database.session() as session:
            taken = schedule.move(session.connection(), name, last, tick)
            if taken:
                fire(session)
        return taken


class RedisTicks:
    """Ticks in a hash ``mainstay:schedule:<service>``."""

    def __init__(self, client: redis.Redis, service: str) -> None:
        self._client = client
        self._key = f"mainstay:schedule:{service}"

    def read(self, names: Collection[str]) -> tuple[datetime, dict[str, datetime]]:
        found: Any = self._client.eval(_READ, 1, self._key, *names)
        now, *ticks = [_moment(each) for each in found]
        return now, dict(zip(names, ticks, strict=True))

    def take(self, name: str, last: datetime, tick: datetime, fire: Fire) -> bool:
        token = new_id()
        if not self._move(name, last, f"{_microseconds(tick)}:{token}"):
            return False
        try:
            fire(None)
        except (Disconnected, Unconfirmed):
            raise  # it may be on its way
        except Exception:
            self._move(name, tick, f"{_microseconds(last)}:{token}")
            raise
        return True

    def _move(self, name: str, last: datetime, held: str) -> bool:
        moved = self._client.eval(_MOVE, 1, self._key, name, str(_microseconds(last)), held)
        return bool(moved)


class OwnTicks:
    """Ticks of this process, gone with it."""

    def __init__(self, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._ticked: dict[str, datetime] = {}

    def read(self, names: Collection[str]) -> tuple[datetime, dict[str, datetime]]:
        now = self._clock()
        return now, {name: self._ticked.setdefault(name, now) for name in names}

    def take(self, name: str, last: datetime, tick: datetime, fire: Fire) -> bool:
        if self._ticked.get(name) != last:
            return False
        fire(None)
        self._ticked[name] = tick
        return True


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _moment(held: bytes) -> datetime:
    return _EPOCH + int(held.partition(b":")[0]) * _MICROSECOND
