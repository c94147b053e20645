from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mainstay.deadletters import DeadLetter
from mainstay.resources.sqlalchemy.reconciling import Marker
from mainstay.tasks.celery.reconciler import Pace, is_marker_due, of_this_life, proven_until
from mainstay.tasks.celery.workflows import AGAIN

START = datetime(2026, 1, 1, tzinfo=UTC)
PACE = Pace(300.0)
GRACE = PACE.grace


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def marker(sent: float, taken: float | None = None) -> Marker:
    return Marker(f"m{sent}", at(sent), None if taken is None else at(taken))


def test_one_marker_proves_nothing_of_what_a_dead_worker_gives_back() -> None:
    assert proven_until([], at(9999), GRACE) is None
    assert proven_until([marker(0)], at(9999), GRACE) is None
    assert proven_until([marker(0, 1)], at(9999), GRACE) is None


def test_two_markers_prove_what_was_there_before_the_first() -> None:
    both = [marker(0, 1), marker(1 + GRACE, 30)]
    assert proven_until(both, at(30 + GRACE), GRACE) == at(0)


def test_workers_have_time_to_say_what_they_hold_after_each_marker() -> None:
    assert proven_until([marker(0, 1), marker(GRACE, 30)], at(9999), GRACE) is None
    both = [marker(0, 1), marker(1 + GRACE, 30)]
    assert proven_until(both, at(29.9 + GRACE), GRACE) is None


def test_each_further_marker_proves_more() -> None:
    three = [marker(0, 1), marker(30, 31), marker(60, 61)]
    assert proven_until(three, at(60 + GRACE), GRACE) == at(0)
    assert proven_until(three, at(61 + GRACE), GRACE) == at(30)


def test_a_marker_that_was_sent_again_and_taken_late_proves_only_what_was_before_it() -> None:
    # Both were behind a long queue: the second was sent before the first had come out.
    assert proven_until([marker(0, 600), marker(45, 601)], at(9999), GRACE) is None


@pytest.mark.parametrize(
    ("markers", "now", "is_empty", "expected"),
    [
        pytest.param([], 0, False, True, id="none was sent"),
        pytest.param([marker(0)], 89, False, False, id="it waits in a long queue"),
        pytest.param([marker(0)], 90, False, True, id="it may be lost itself"),
        pytest.param([marker(0)], 44, True, False, id="it is being taken"),
        pytest.param([marker(0)], 45, True, True, id="it is not in the queue any more"),
        pytest.param([marker(0), marker(90)], 269, False, False, id="nobody takes any"),
        pytest.param([marker(0), marker(90)], 270, False, True, id="later and later"),
        pytest.param([marker(0, 1)], 20, False, False, id="workers say what they hold"),
        pytest.param([marker(0, 1)], 21, False, True, id="the second one"),
        pytest.param([marker(0), marker(90, 91)], 111, False, True, id="an older one is gone"),
    ],
)
def test_a_marker_is_sent_when_it_can_prove_something(
    markers: list[Marker], now: float, is_empty: bool, expected: bool
) -> None:
    assert is_marker_due(markers, at(now), PACE, is_empty=is_empty) is expected


def test_what_is_lost_is_told_within_two_minutes_of_the_limit() -> None:
    # Everything was flushed just before the limit, the newest marker among it.
    seconds = 2 * PACE.turn + PACE.resend + 2 * (PACE.grace + PACE.turn)
    assert seconds <= 120


@pytest.mark.parametrize("lost_after", [1.0, 60.0, 300.0, 86_400.0])
def test_a_worker_says_what_it_holds_more_than_once_before_it_must(lost_after: float) -> None:
    pace = Pace(lost_after)
    assert 2 * pace.hold <= pace.grace
    assert pace.grace < pace.doubt < pace.lost_after


def letter(id: str, **headers: str) -> DeadLetter:
    return DeadLetter(id, "task", "q", "expired", headers=headers)


def test_a_dead_letter_of_an_earlier_life_of_a_step_does_not_end_it() -> None:
    first, second = letter("a"), letter("a", **{AGAIN: "1"})
    assert of_this_life([first], {"a": 0}) == [first]
    assert of_this_life([first], {"a": 1}) == []
    assert of_this_life([second], {"a": 1}) == [second]
    assert of_this_life([second], {"b": 0}) == []
