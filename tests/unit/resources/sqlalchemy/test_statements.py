from __future__ import annotations

import pytest

from mainstay.resources.sqlalchemy.statements import Statement

STATEMENT = Statement(
    "update {inbox} set done_at = {now} where id = :id and epoch = :epoch and x < :ttl+seconds"
)


@pytest.mark.parametrize(
    ("dialect", "driver", "sql"),
    [
        (
            "postgresql",
            "asyncpg",
            (
                "update mainstay.inbox set done_at = clock_timestamp() "
                "where id = $1 and epoch = $2 and x < clock_timestamp() + make_interval(secs => $3)"
            ),
        ),
        (
            "postgresql",
            "psycopg",
            (
                "update mainstay.inbox set done_at = clock_timestamp() "
                "where id = %s and epoch = %s and x < clock_timestamp() + make_interval(secs => %s)"
            ),
        ),
        (
            "sqlite",
            "pysqlite",
            (
                "update mainstay_inbox set done_at = strftime('%Y-%m-%d %H:%M:%f000', 'now') "
                "where id = ? and epoch = ? "
                "and x < strftime('%Y-%m-%d %H:%M:%f000', 'now', ? || ' seconds')"
            ),
        ),
    ],
)
def test_each_driver_gets_its_own_placeholders(dialect: str, driver: str, sql: str) -> None:
    assert STATEMENT.rendered(dialect, driver) == (sql, ("id", "epoch", "ttl"))
