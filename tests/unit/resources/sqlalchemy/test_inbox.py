"""What SQLite does its own way; the rest is in tests/integration/database."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from mainstay.errors import AlreadyDone
from mainstay.resources.sqlalchemy import Database, inbox


def test_a_twin_that_was_faster_undoes_the_slower_one(database: Database) -> None:
    with database.session() as session:
        session.execute(text("create table effects (worker varchar(32))"))

    def work() -> None:
        with database.session() as session, inbox.deduplicated(session, "m1"):
            with database.session() as twin:  # nothing is locked while the work goes on
                inbox.once(twin, "m1")
            session.execute(text("insert into effects values ('slow')"))

    with pytest.raises(AlreadyDone):
        work()
    with database.session(read_only=True) as session:
        assert session.scalar(text("select count(*) from effects")) == 0
