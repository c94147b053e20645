"""What a migration should have made and has not is said with what makes it, on every driver."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from mainstay.resources.sqlalchemy import Database

HINT = r"`mainstay db revision .*`mainstay db upgrade`"
STATEMENTS = [
    "select * from orders",
    "insert into orders (id) values (1)",
    "select title from people",
    "insert into people (title) values ('x')",
]


@pytest.mark.parametrize("statement", STATEMENTS)
async def test_what_is_missing_is_named_with_the_commands_that_make_it(
    database: Database, statement: str
) -> None:
    with database.session() as session:
        session.execute(text("create table people (id integer)"))
    with pytest.raises(DBAPIError, match=HINT), database.session() as session:
        session.execute(text(statement))
    with pytest.raises(DBAPIError, match=HINT):
        async with database.asession() as asession:
            await asession.execute(text(statement))


def test_other_mistakes_are_told_as_they_are(database: Database) -> None:
    with pytest.raises(DBAPIError) as raised, database.session() as session:
        session.execute(text("selectt 1"))
    assert "mainstay db" not in str(raised.value)
