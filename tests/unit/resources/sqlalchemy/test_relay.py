"""What becomes of a message that was not published, decided by what was said of it."""

from __future__ import annotations

import pytest

from mainstay.errors import (
    Disconnected,
    MainstayError,
    Misconfigured,
    NoRoute,
    NotConnected,
    Overloaded,
    TooLarge,
    Unconfirmed,
)
from mainstay.resources.sqlalchemy.relay import decision_on
from mainstay.retries import BuryAs, RetryIn


@pytest.mark.parametrize("error", [NotConnected("x"), Disconnected("x"), Unconfirmed("x")])
def test_trouble_of_the_broker_is_held_against_no_message(error: MainstayError) -> None:
    assert decision_on(error, attempts=1_000, alone=False) is None


def test_a_message_that_breaks_the_connection_by_itself_is_put_off() -> None:
    assert isinstance(decision_on(Disconnected("x"), attempts=1_000, alone=True), RetryIn)
    assert decision_on(NotConnected("x"), alone=True) is None


def test_a_full_queue_is_never_a_reason_to_give_up() -> None:
    first, last = (decision_on(Overloaded("x"), attempts=n, alone=False) for n in (0, 1_000))
    assert isinstance(first, RetryIn)
    assert isinstance(last, RetryIn)
    assert first.seconds < last.seconds <= 60


def test_what_no_queue_takes_is_given_up_after_some_tries() -> None:
    # A queue that was full before is no reason to give up sooner.
    decisions = [
        decision_on(NoRoute("x"), attempts=100 + n, unrouted=n, alone=False) for n in range(5)
    ]
    assert [type(each) for each in decisions] == [RetryIn] * 4 + [BuryAs]
    assert decisions[-1] == BuryAs("refused:NoRoute")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TooLarge("x"), "refused:TooLarge"),
        (Misconfigured("x"), "refused:Misconfigured"),
        (KeyError("x"), "failed:KeyError"),
    ],
)
def test_what_can_never_be_published_is_buried_at_once(error: Exception, reason: str) -> None:
    assert decision_on(error, alone=False) == BuryAs(reason)
