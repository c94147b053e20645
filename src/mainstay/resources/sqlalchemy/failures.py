"""Which of a database's errors mean "try again", and what is the caller told then?

The condition is read from the SQLSTATE or from SQLite's result code, not from a message or a
class' name, which differ between drivers and languages. Integrity errors and mistakes in statements
are nobody's outage: they leave as they came.

https://www.postgresql.org/docs/current/errcodes-appendix.html, https://www.sqlite.org/rescode.html
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from mainstay.errors import Disconnected, NotConnected, Overloaded, Retry, Unavailable

__all__ = ["as_retry", "explain", "sqlstate", "translated", "unreachable"]

_CONDITIONS = {
    "25006": "accepts no writes",
    "25P03": "ended a transaction that was left idle",
    "25P04": "ended a transaction that took too long",
    "53100": "has no disk space left",
    "53200": "has no memory left",
    "53300": "has no connections left",
    "55P03": "did not grant a lock in time",
    "57014": "did not finish a statement in time",
}
_CLASSES = {
    "08": "closed the connection",
    "53": "has no resources left",
    "57": "is shutting down or restarting",
    "58": "has trouble with its files",
}
# The transaction lost against another one: it is sound, and the database is well.
_CONTESTED = {"40001", "40P01"}
_SQLITE_CONDITIONS = {
    5: "did not grant a lock in time",  # SQLITE_BUSY
    6: "did not grant a lock in time",  # SQLITE_LOCKED
    8: "accepts no writes",  # SQLITE_READONLY
    10: "has trouble with its files",  # SQLITE_IOERR
    13: "has no disk space left",  # SQLITE_FULL
    14: "cannot be opened",  # SQLITE_CANTOPEN
}
_REFUSED_LOGINS = {"28000", "28P01"}
_NO_DATABASE = "3D000"
_UNKNOWN = (
    "the database closed the connection during the commit: it is unknown whether the changes were "
    "kept"
)
# libpq tells no SQLSTATE for a connection that it did not get, so there a server that speaks
# English is understood better than others.
_SAID = {
    "password authentication failed": "28P01",
    "no pg_hba.conf entry": "28000",
    "too many clients": "53300",
    "remaining connection slots": "53300",
    "the database system is": "57P03",
}


# undefined_table, undefined_column, invalid_schema_name; SQLite has no codes for them.
_MISSING = frozenset({"42P01", "42703", "3F000"})
_MISSING_IN_SQLITE = ("no such table:", "no such column:", "has no column named")
_MISSING_HINT = (
    "where a model defines it: `mainstay db revision --autogenerate -m …` writes the migration, "
    "`mainstay db upgrade` applies it"
)


def explain(error: BaseException | None) -> None:
    """Add to a driver's error how a table or a column that is missing is made."""
    if not isinstance(error, DBAPIError):
        return
    said = str(error.orig)
    if sqlstate(error) in _MISSING or any(words in said for words in _MISSING_IN_SQLITE):
        error.add_detail(_MISSING_HINT)


def sqlstate(error: BaseException | None) -> str:
    """Return the SQLSTATE that a driver's error carries; empty where it carries none."""
    if isinstance(error, DBAPIError):
        error = error.orig
    return str(getattr(error, "sqlstate", None) or "")


def as_retry(error: BaseException) -> Retry | None:
    """Return what to raise in the place of *error*; ``None`` when it is no passing condition."""
    if isinstance(error, PoolTimeout):
        return Overloaded("every database connection of this process is in use: try again")
    if not isinstance(error, DBAPIError):
        return None
    code = sqlstate(error)
    if code in _CONTESTED:
        return Retry(
            "another transaction changed the same rows first: try again", retry_after_seconds=0.1
        )
    condition = _CONDITIONS.get(code) or _CLASSES.get(code[:2]) or _of_sqlite(error)
    if condition is None and error.connection_invalidated:
        condition = "closed the connection"
    if condition is None:
        return None
    return Unavailable(f"the database {condition}: try again")


def unreachable(error: BaseException) -> NotConnected:
    """Return what to raise when no connection could be made; nothing was sent."""
    code = sqlstate(error) or next((_SAID[words] for words in _SAID if words in str(error)), "")
    if code in _REFUSED_LOGINS:
        reason = f"refuses this service's user or password (SQLSTATE {code})"
    elif code == _NO_DATABASE:
        reason = f"has no database of that name (SQLSTATE {code})"
    else:
        reason = _CONDITIONS.get(code) or _CLASSES.get(code[:2]) or "cannot be reached"
    return NotConnected(f"the database {reason}: is it up, and does database_url name it?")


@contextmanager
def translated(*, committing: bool = False) -> Iterator[None]:
    """Raise passing conditions of the database as the Retry family; let the rest through.

    Args:
        committing: A connection that breaks now leaves the outcome unknown.
    """
    try:
        yield
    except (DBAPIError, PoolTimeout) as error:
        answer = as_retry(error)
        if answer is None:
            raise
        if committing and isinstance(error, DBAPIError) and error.connection_invalidated:
            answer = Disconnected(_UNKNOWN)
        raise answer from error
    except Unavailable as error:
        # A connection that asyncpg broke, or that kept silent, was told of where it happened.
        if committing and not isinstance(error, NotConnected | Disconnected):
            raise Disconnected(_UNKNOWN) from error
        raise


def _of_sqlite(error: DBAPIError) -> str | None:
    code = getattr(error.orig, "sqlite_errorcode", None)
    return None if code is None else _SQLITE_CONDITIONS.get(code & 0xFF)
