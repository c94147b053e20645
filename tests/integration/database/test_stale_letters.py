"""What a retry has noted of stale dead letters stays noted until they are taken, on every kind of
database.
"""

from __future__ import annotations

import pytest

from mainstay.resources.sqlalchemy import (
    Database,
    reconciling,
    schedule,
    staleletters,
    workflows,
)
from mainstay.resources.sqlalchemy.status import TaskStatuses
from mainstay.resources.sqlalchemy.workflows import NewStep


def claimed(database: Database) -> list[tuple[str, int, str]]:
    found = staleletters.claim(database)
    return [(step.task_id, step.retries, step.queue) for step in found]


def retry(database: Database) -> None:
    """Have the one step fail, and its workflow be retried."""
    TaskStatuses(database).failed("a", {"type": "E", "detail": "e"}, name="first", queue="q")
    with database.session() as session:
        workflows.again(session.connection(), "w")
        TaskStatuses(database).reopened("a", session=session)


@pytest.fixture
def retried(database: Database) -> Database:
    with database.session() as session:
        step = NewStep(task_id="a", name="first", signature="A")
        workflows.keep(session.connection(), "w", "shop", [step])
    assert claimed(database) == []
    retry(database)
    return database


def test_one_at_a_time_has_what_a_retry_has_noted_until_it_is_taken(retried: Database) -> None:
    (step,) = staleletters.claim(retried)
    assert (step.task_id, step.retries, step.queue) == ("a", 1, "q")
    assert claimed(retried) == []
    staleletters.put_off(retried, [step], 0.0)
    (step,) = staleletters.claim(retried)
    staleletters.taken(retried, [step])
    assert claimed(retried) == []


def test_who_dies_with_a_claim_leaves_it_to_others(
    retried: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staleletters, "_LEASE_SECONDS", 0.0)
    (dead,) = staleletters.claim(retried)
    monkeypatch.undo()
    (step,) = staleletters.claim(retried)
    staleletters.put_off(retried, [dead], 0.0)
    assert claimed(retried) == []
    staleletters.taken(retried, [dead])
    staleletters.put_off(retried, [step], 0.0)
    assert claimed(retried) == [("a", 1, "q")]


def test_a_letter_that_is_stored_after_the_retry_is_looked_for_again(retried: Database) -> None:
    (step,) = staleletters.claim(retried)
    staleletters.stored(retried, "a", 0)
    staleletters.taken(retried, [step])
    (step,) = staleletters.claim(retried)
    staleletters.taken(retried, [step])
    staleletters.stored(retried, "a", 1)  # of the life that is the newest
    staleletters.stored(retried, "nobody", 0)
    assert claimed(retried) == []


def test_a_retry_that_comes_meanwhile_is_not_taken_for_done(retried: Database) -> None:
    (step,) = staleletters.claim(retried)
    retry(retried)
    staleletters.taken(retried, [step])
    assert claimed(retried) == [("a", 2, "q")]


def test_who_finds_dead_letters_of_open_tasks_is_told_which_life_is_open(retried: Database) -> None:
    TaskStatuses(retried).accepted(None, "b", "direct", "q")
    with retried.autocommit() as connection:
        reconciling.adopt(connection, "q")
        now = schedule.now(connection)
        found = reconciling.among(connection, "q", ["a", "b", "c"], before=now)
    assert found == {"a": 1, "b": 0}
