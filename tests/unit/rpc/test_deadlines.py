"""Deadlines come for those who still wait, and for nobody else."""

from __future__ import annotations

import time

from mainstay.rpc.deadlines import Deadlines
from mainstay.testing.wait import eventually


def test_who_still_waits_is_told_in_the_order_of_deadlines() -> None:
    waiting, expired = {"a", "b", "c"}, list[str]()
    deadlines = Deadlines(waiting, expired.append)
    now = time.monotonic()
    deadlines.add(now + 0.10, "b")
    deadlines.add(now + 0.05, "a")
    deadlines.add(now + 60.0, "c")
    eventually(lambda: expired == ["a", "b"])
    deadlines.close()


def test_who_was_answered_is_not_told() -> None:
    waiting, expired = {"a", "b"}, list[str]()
    deadlines = Deadlines(waiting, expired.append)
    now = time.monotonic()
    deadlines.add(now + 0.05, "a")
    deadlines.add(now + 0.10, "b")
    waiting.discard("a")
    eventually(lambda: expired)
    assert expired == ["b"]
    deadlines.close()


def test_a_deadline_that_is_over_already_comes_at_once() -> None:
    expired: list[str] = []
    deadlines = Deadlines({"a"}, expired.append)
    deadlines.add(time.monotonic() - 1.0, "a")
    eventually(lambda: expired == ["a"])
    deadlines.close()
