"""Statements that are written once and run as they are by every driver.

What is done for each task or request goes past SQLAlchemy's compiler: the same insert costs a
fifth of the time that way. A statement is written with ``:name`` for its values and ``{table}``
for Mainstay's tables; each driver's own placeholders are put in once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, CursorResult

from mainstay.resources.sqlalchemy import tables

__all__ = ["Both", "Statement"]

_VALUE = re.compile(r"(?<!:):([a-z_]+)(?:\+seconds)?")

# `:name+seconds` is the moment that many seconds from now, by the server's clock: the clocks of
# the processes that share a table need not agree.
_LATER = {
    "postgresql": "clock_timestamp() + make_interval(secs => {})",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now', {} || ' seconds')",
}
_FRAGMENTS: Mapping[str, Mapping[str, str]] = {
    "postgresql": {
        "now": "clock_timestamp()",
        "began": "statement_timestamp()",
        "soon": "statement_timestamp() + interval '1 minute'",
        "at_once": "timestamptz '0001-01-01 00:00:00+00'",
        "lease_left": "cast(extract(epoch from lease_until - clock_timestamp()) as float8)",
        "age": "cast(extract(epoch from clock_timestamp() - created_at) as float8)",
        "skip_locked": "for update skip locked",
        "ids": "select value from json_array_elements_text(cast(:ids as json)) as each (value)",
        "positions": "select cast(value as bigint) "
        "from json_array_elements_text(cast(:positions as json)) as each (value)",
    },
    "sqlite": {
        # In the form in which SQLAlchemy writes a moment, because texts are compared.
        "now": "strftime('%Y-%m-%d %H:%M:%f000', 'now')",
        "began": "strftime('%Y-%m-%d %H:%M:%f000', 'now')",
        "soon": "strftime('%Y-%m-%d %H:%M:%f000', 'now', '1 minute')",
        "at_once": "'0001-01-01 00:00:00.000000'",
        "lease_left": "(julianday(lease_until) - julianday('now')) * 86400.0",
        "age": "(julianday('now') - julianday(created_at)) * 86400.0",
        "skip_locked": "",  # there is one writer
        "ids": "select value from json_each(:ids)",
        "positions": "select value from json_each(:positions)",
    },
}
_PLACEHOLDERS: Mapping[str, str] = {"asyncpg": "${}", "psycopg": "%s"}


class Statement:
    """One statement.

    Args:
        text: SQL that both kinds of database understand. In braces stand the tables, and

            ``{now}``: the server's time; ``{began}``: the same as it was when the statement
            began, which an index can be searched with; ``{soon}``: a minute later;
            ``{at_once}``: before any other time; ``{lease_left}`` and ``{age}``: the seconds until
            a row's ``lease_until`` and since its ``created_at``; ``{skip_locked}``: leave out the
            rows that another transaction has locked, and lock these; ``{positions}`` and
            ``{ids}``: what the values ``:positions``, a JSON array of numbers, and ``:ids``, one of
            texts, hold.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._rendered: dict[str, tuple[str, tuple[str, ...]]] = {}

    def run(self, connection: Connection, **values: object) -> CursorResult[Any]:
        """Execute it on *connection*; every statement that changes rows asks them back with
        ``returning``, because the count of an upsert means different things to drivers.
        """
        driver = connection.dialect.driver
        known = self._rendered.get(driver)
        if known is None:
            known = self._rendered[driver] = self.rendered(connection.dialect.name, driver)
        sql, order = known
        return connection.exec_driver_sql(sql, tuple([values[name] for name in order]))

    def rendered(self, dialect: str, driver: str) -> tuple[str, tuple[str, ...]]:
        """Return the SQL for *driver* and the names of its values, in their order."""
        text = self._text.format_map({**tables.names(dialect), **_FRAGMENTS[dialect]})
        order: list[str] = []

        def placeholder(found: re.Match[str]) -> str:
            order.append(found[1])
            mark = _PLACEHOLDERS.get(driver, "?").format(len(order))
            return _LATER[dialect].format(mark) if found[0].endswith("+seconds") else mark

        return _VALUE.sub(placeholder, text), tuple(order)


class Both:
    """Two statements, done as one where the database can: that saves a way there and back.

    Args:
        first: Changes rows; what it says is not asked for.
        then: Likewise.
    """

    def __init__(self, first: str, then: str) -> None:
        self._first, self._then = Statement(first), Statement(then)
        self._as_one = Statement(f"with done as ({first}) {then}")

    def run(self, connection: Connection, **values: object) -> None:
        """Execute both on *connection*."""
        if connection.dialect.name == "postgresql":
            self._as_one.run(connection, **values)
            return
        self._first.run(connection, **values)
        self._then.run(connection, **values)
