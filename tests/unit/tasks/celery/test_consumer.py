from __future__ import annotations

from mainstay.tasks.celery.consumer import Recent


def test_what_happens_twice_in_a_short_time_is_too_often() -> None:
    recent = Recent(2, window_seconds=10)
    assert not recent.note(0)
    assert recent.note(9)


def test_what_happens_now_and_then_is_not() -> None:
    recent = Recent(2, window_seconds=10)
    assert [recent.note(now) for now in (0, 20, 40, 60)] == [False] * 4
