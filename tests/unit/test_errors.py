"""Errors: the family of each says what is to be done with the work."""

from __future__ import annotations

import inspect
import pickle

import pytest

from mainstay import errors
from mainstay.errors import (
    Bury,
    FieldError,
    Invalid,
    LimitExceeded,
    MainstayError,
    Misconfigured,
    Overloaded,
    Refuse,
    RemoteFailure,
    Retry,
    Unavailable,
    UnderWay,
)

ALL = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, MainstayError)
]


def made(kind: type[MainstayError]) -> MainstayError:
    if kind is LimitExceeded:
        return LimitExceeded("too many", retry_after_seconds=3, limit=10, window_seconds=60)
    if kind is RemoteFailure:
        return RemoteFailure("ValueError", "no such card")
    return kind("what happened")


@pytest.mark.parametrize("kind", ALL)
def test_each_belongs_to_one_family_is_in_the_tree_and_is_exported(
    kind: type[MainstayError],
) -> None:
    families = [
        family for family in (Retry, Refuse, Bury, Misconfigured) if issubclass(kind, family)
    ]

    assert len(families) == (0 if kind is MainstayError else 1)
    assert errors.__doc__ is not None
    assert kind.__name__ in errors.__doc__
    assert kind.__name__ in errors.__all__
    assert kind.title


@pytest.mark.parametrize("kind", ALL)
def test_each_survives_a_wire_that_pickles(kind: type[MainstayError]) -> None:
    error = made(kind)

    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes

    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_the_detail_is_the_message() -> None:
    assert (
        Unavailable("redis does not answer: start it").detail == "redis does not answer: start it"
    )


def test_a_default_says_when_to_come_back() -> None:
    assert Retry("x").retry_after_seconds is None
    assert Unavailable("x").retry_after_seconds == 1.0
    assert Overloaded("x").retry_after_seconds == 1.0
    assert Unavailable("x", retry_after_seconds=9).retry_after_seconds == 9
    assert UnderWay("x").retry_after_seconds == 1.0


def test_a_limit_tells_its_size() -> None:
    error = LimitExceeded("x", retry_after_seconds=3, limit=10, window_seconds=60)

    assert (error.retry_after_seconds, error.limit, error.window_seconds) == (3, 10, 60)


def test_what_does_not_fit_names_its_fields() -> None:
    error = Invalid("one field does not fit", errors=[FieldError("/amount", "a number")])

    assert error.errors == (FieldError("/amount", "a number"),)


def test_a_failure_on_the_other_side_is_told_as_it_was() -> None:
    error = RemoteFailure("ValueError", "no such card")

    assert (error.type, error.detail, str(error)) == (
        "ValueError",
        "no such card",
        "ValueError: no such card",
    )
    assert str(RemoteFailure("ValueError", "")) == "ValueError"


def test_bad_configuration_has_its_exit_code() -> None:
    assert Misconfigured("x").exit_code == 78
