from __future__ import annotations

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from mainstay.errors import Disconnected, NotConnected, Overloaded, Retry, Unavailable
from mainstay.resources.sqlalchemy.failures import as_retry, sqlstate, translated, unreachable


class FromServer(Exception):
    def __init__(self, state: str) -> None:
        super().__init__("host=10.0.0.1 password=hunter2")
        self.sqlstate = state


class FromSQLite(Exception):
    def __init__(self, code: int) -> None:
        super().__init__("database is locked: /secret/path.db")
        self.sqlite_errorcode = code


def wrapped(error: Exception, *, gone: bool = False) -> DBAPIError:
    return DBAPIError("select 1", {}, error, connection_invalidated=gone)


@pytest.mark.parametrize(
    "state",
    ["08006", "25006", "25P03", "53100", "53300", "55P03", "57014", "57P01", "57P03", "58030"],
)
def test_a_passing_condition_of_the_server_is_to_be_tried_again(state: str) -> None:
    answer = as_retry(wrapped(FromServer(state)))
    assert isinstance(answer, Unavailable)
    assert answer.retry_after_seconds
    assert "hunter2" not in str(answer)
    assert "select" not in str(answer)


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_a_transaction_that_lost_against_another_is_sound(state: str) -> None:
    answer = as_retry(wrapped(FromServer(state)))
    assert isinstance(answer, Retry)
    assert not isinstance(answer, Unavailable)


@pytest.mark.parametrize("state", ["23505", "42601", "22P02", ""])
def test_what_will_not_pass_leaves_as_it_came(state: str) -> None:
    assert as_retry(wrapped(FromServer(state))) is None


@pytest.mark.parametrize("code", [5, 6, 13, 261, 517])
def test_sqlite_conditions_are_told_by_their_code(code: int) -> None:
    answer = as_retry(wrapped(FromSQLite(code)))
    assert isinstance(answer, Unavailable)
    assert "secret" not in str(answer)


def test_a_constraint_of_sqlite_is_no_outage() -> None:
    assert as_retry(wrapped(FromSQLite(19))) is None


def test_an_exhausted_pool_is_an_overloaded_process() -> None:
    assert isinstance(as_retry(PoolTimeout()), Overloaded)


def test_a_connection_that_broke_during_the_commit_leaves_the_outcome_unknown() -> None:
    with pytest.raises(Disconnected), translated(committing=True):
        raise wrapped(FromServer("57P01"), gone=True)
    with pytest.raises(Unavailable) as before, translated():
        raise wrapped(FromServer("57P01"), gone=True)
    assert not isinstance(before.value, Disconnected)


def test_a_silence_during_the_commit_leaves_the_outcome_unknown_and_no_connection_leaves_none() -> (
    None
):
    with pytest.raises(Disconnected), translated(committing=True):
        raise Unavailable("the database does not answer: try again")
    with pytest.raises(NotConnected), translated(committing=True):
        raise NotConnected("the database cannot be reached")


def test_an_integrity_error_passes() -> None:
    with pytest.raises(IntegrityError), translated():
        raise IntegrityError("insert", {}, FromServer("23505"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FromServer("28P01"), "user or password"),
        (FromServer("3D000"), "no database of that name"),
        (FromServer("53300"), "no connections left"),
        (ConnectionRefusedError(), "cannot be reached"),
    ],
)
def test_a_database_that_cannot_be_reached_is_told_by_its_reason(
    error: Exception, said: str
) -> None:
    answer = unreachable(error)
    assert isinstance(answer, NotConnected)
    assert said in str(answer)
    assert "hunter2" not in str(answer)


def test_the_sqlstate_is_read_through_sqlalchemys_wrapping() -> None:
    assert sqlstate(wrapped(FromServer("55P03"))) == "55P03"
    assert sqlstate(ValueError()) == ""
