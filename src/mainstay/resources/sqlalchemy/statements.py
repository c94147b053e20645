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

__all__ = ["Statement"]

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
        "lease_left": "cast(extract(epoch from lease_until - clock_timestamp()) as float8)",
    },
    "sqlite": {
        # In the form in which SQLAlchemy writes a moment, because texts are compared.
        "now": "strftime('%Y-%m-%d %H:%M:%f000', 'now')",
        "lease_left": "(julianday(lease_until) - julianday('now')) * 86400.0",
    },
}
_PLACEHOLDERS: Mapping[str, str] = {"asyncpg": "${}", "psycopg": "%s"}


class Statement:
    """One statement.

    Args:
        text: SQL that both kinds of database understand, with ``{now}`` for the server's time
            and ``{lease_left}`` for the seconds until a row's ``lease_until``.
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
