from __future__ import annotations

import asyncio
import time

import pytest

from mainstay.http.deadlines import Deadlines, Timed


async def work(deadlines: Deadlines, one: Timed, *, seconds: float, ends_in: float) -> None:
    one.begin(time.monotonic() + ends_in)
    deadlines.watch(one)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        if one.is_late and one.absorb():
            raise TimeoutError from None
        raise
    finally:
        deadlines.leave(one)


async def test_what_takes_too_long_is_ended() -> None:
    deadlines = Deadlines()
    with pytest.raises(TimeoutError):
        await work(deadlines, Timed(), seconds=600, ends_in=0.01)
    assert len(deadlines) == 0


async def test_what_is_done_in_time_is_left_alone() -> None:
    deadlines, one = Deadlines(), Timed()
    await work(deadlines, one, seconds=0, ends_in=600)
    assert not one.is_late


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    deadlines, one = Deadlines(), Timed()
    task = asyncio.create_task(work(deadlines, one, seconds=600, ends_in=600))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_timer_rests_when_there_is_nothing_to_watch() -> None:
    deadlines = Deadlines()
    await work(deadlines, Timed(), seconds=0, ends_in=600)
    with pytest.raises(TimeoutError):
        await work(deadlines, Timed(), seconds=600, ends_in=0.01)
    with pytest.raises(TimeoutError):
        await work(deadlines, Timed(), seconds=600, ends_in=0.12)


def test_it_goes_on_in_another_event_loop() -> None:
    deadlines = Deadlines()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            asyncio.run(work(deadlines, Timed(), seconds=600, ends_in=0.01))
