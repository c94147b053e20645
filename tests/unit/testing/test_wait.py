"""Polling for what becomes true."""

from __future__ import annotations

import pytest

from mainstay.testing import async_eventually, eventually


class Countdown:
    """Says no as often as it was told to, then yes."""

    def __init__(self, noes: int, *, no: BaseException | None = None) -> None:
        self.left = noes
        self.no = no

    def __call__(self) -> str:
        if self.left:
            self.left -= 1
            if self.no:
                raise self.no
            return ""
        return "yes"

    async def later(self) -> str:
        return self()


def test_the_first_true_answer_is_returned() -> None:
    assert eventually(Countdown(3), every_seconds=0) == "yes"


def test_a_check_that_raises_is_asked_again() -> None:
    assert eventually(Countdown(3, no=KeyError("row")), every_seconds=0) == "yes"


def test_what_never_comes_true_fails_with_the_last_answer() -> None:
    with pytest.raises(AssertionError, match=r"not within 0 s; at last: \[\]"):
        eventually(list, timeout_seconds=0)


def test_a_check_that_always_raises_fails_with_its_error_as_cause() -> None:
    with pytest.raises(AssertionError, match="refused") as failure:
        eventually(Countdown(9, no=ConnectionError("refused")), timeout_seconds=0)
    assert isinstance(failure.value.__cause__, ConnectionError)


async def test_a_coroutine_function_is_awaited() -> None:
    assert await async_eventually(Countdown(3).later, every_seconds=0) == "yes"


async def test_a_plain_function_may_be_asked_from_an_event_loop() -> None:
    assert await async_eventually(Countdown(3, no=OSError("down")), every_seconds=0) == "yes"


async def test_waiting_in_an_event_loop_ends_too() -> None:
    with pytest.raises(AssertionError, match="not within 0 s"):
        await async_eventually(Countdown(9).later, timeout_seconds=0)
