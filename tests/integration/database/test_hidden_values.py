"""What a row holds is in no message of an error: messages end up in logs and spans."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from mainstay.resources.sqlalchemy import Database


def test_an_error_of_a_statement_does_not_show_its_values(database: Database) -> None:
    with database.session() as session:
        session.execute(text("create table people (id integer primary key, name varchar(20))"))
    statement = text("insert into people values (1, :name)")
    with database.session() as session:
        session.execute(statement, {"name": "Alice Canary"})
    with pytest.raises(IntegrityError) as raised, database.session() as session:
        session.execute(statement, {"name": "Alice Canary"})
    assert "Canary" not in str(raised.value)
