"""The rows of workflows, on every kind of database."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.event import listen

from mainstay.errors import Conflict, NotFound
from mainstay.resources.sqlalchemy import Database, tables, workflows
from mainstay.resources.sqlalchemy.status import TaskStatuses
from mainstay.resources.sqlalchemy.workflows import NewStep, ReadyStep
from mainstay.taskstates import State


def kept(database: Database, id: str = "w") -> None:
    """Keep a workflow: a, then b and c, then d of both."""
    steps = [
        NewStep(task_id="a", name="first", signature="A"),
        NewStep(task_id="b", name="left", signature="B", needs=["a"], takes="a"),
        NewStep(task_id="c", name="right", signature="C", needs=["a"]),
        NewStep(task_id="d", name="last", signature="D", needs=["b", "c"], takes=["c", "b"]),
    ]
    with database.session() as session:
        assert workflows.keep(session.connection(), id, "shop", steps, correlation_id="cid")
        assert not workflows.keep(session.connection(), id, "shop", steps)


def passed(database: Database, id: str, result: object) -> list[ReadyStep]:
    with database.session() as session:
        TaskStatuses(database).succeeded(id, result, session=session)
        return workflows.passed(session.connection(), id)


def test_each_step_has_its_turn_when_all_that_it_waits_for_are_done(database: Database) -> None:
    kept(database)
    with database.session() as session:
        first = workflows.ready(session.connection(), "w")
    assert first == [ReadyStep("w", "a", "first", "A", ())]
    assert passed(database, "a", {"n": 2**70}) == [
        ReadyStep("w", "b", "left", "B", ({"n": 2**70},)),
        ReadyStep("w", "c", "right", "C", ()),
    ]
    assert passed(database, "b", None) == []
    assert passed(database, "c", "see") == [ReadyStep("w", "d", "last", "D", (["see", None],))]
    assert passed(database, "d", 1) == []
    assert passed(database, "no step at all", 1) == []


def test_what_failed_is_given_again_what_it_was_given(database: Database) -> None:
    kept(database)
    status = TaskStatuses(database)
    passed(database, "a", "eh")
    status.started("b", attempt=3)
    status.failed("b", {"type": "E", "detail": "e"})
    for connect in (database.session, database.session):
        with connect() as session:
            (again,) = workflows.again(session.connection(), "w")
            assert (again.task_id, again.arguments) == ("b", ("eh",))
            session.rollback()
    with database.session() as session:
        workflows.again(session.connection(), "w")
        status.reopened("b", session=session)
    with database.session() as session, pytest.raises(Conflict):
        workflows.again(session.connection(), "w")
    with database.session() as session, pytest.raises(NotFound):
        workflows.again(session.connection(), "none")
    with database.session(read_only=True) as session:
        found = workflows.find(session.connection(), "w")
    assert found is not None
    assert (found.name, found.correlation_id) == ("shop", "cid")
    assert [step.task_id for step in found.steps] == ["a", "b", "c", "d"]
    assert found.steps[1].attempts == 3


def test_many_are_asked_for_in_one_statement(database: Database) -> None:
    steps = [
        NewStep(task_id="e", name="first", signature="E"),
        NewStep(task_id="f", name="last", signature="F", needs=["e"]),
    ]
    kept(database)
    passed(database, "a", 1)
    with database.session() as session:
        connection = session.connection()
        workflows.keep(connection, "other", "shop", steps)
        asked: list[str] = []
        listen(connection, "before_cursor_execute", lambda *told: asked.append(told[2]))
        assert workflows.states(connection, ["w", "other", "none"]) == {
            "w": [
                ("a", [], State.SUCCESS),
                ("b", ["a"], None),
                ("c", ["a"], None),
                ("d", ["b", "c"], None),
            ],
            "other": [("e", [], None), ("f", ["e"], None)],
        }
        assert len(asked) == 1
        assert workflows.states(connection, []) == {}
        assert len(asked) == 1


def test_a_purge_leaves_what_is_under_way_and_the_statuses_of_what_it_leaves(
    database: Database,
) -> None:
    status = TaskStatuses(database)
    kept(database)
    status.accepted(None, "a", "first", "q")
    assert workflows.purge(database, older_than_seconds=-60) == 0  # it waits
    status.succeeded("a")
    assert workflows.purge(database, older_than_seconds=60) == 0  # it is young
    assert status.purge(older_than_seconds=-60) == 0  # its workflow is there
    assert workflows.purge(database, older_than_seconds=-60) == 1
    assert status.purge(older_than_seconds=-60) == 1
    with database.session(read_only=True) as session:
        table = tables.table("workflow_steps", database.engine.dialect.name)
        assert session.execute(select(func.count()).select_from(table)).scalar_one() == 0
        assert workflows.find(session.connection(), "w") is None


def test_a_workflow_in_which_something_ended_lately_is_kept(database: Database) -> None:
    kept(database)
    TaskStatuses(database).succeeded("a")
    table = tables.table("workflows", database.engine.dialect.name)
    with database.session() as session:
        long_ago = session.execute(select(table.c.created_at)).scalar_one().replace(year=2001)
        session.execute(update(table).values(created_at=long_ago))
    assert workflows.purge(database, older_than_seconds=60) == 0
