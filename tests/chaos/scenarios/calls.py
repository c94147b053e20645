"""Calls, while their servers and their broker die, and while their callers lose patience."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any

from mainstay.failpoints import VARIABLE
from tests.chaos.callers import Callers
from tests.chaos.scenarios.catalogue import scenario
from tests.chaos.stage import Stage
from tests.chaos.subject.service import CALLS_QUEUE, CONCURRENCY
from tests.chaos.waiting import until

# How long after its deadline a call may end.
LATE_SECONDS = 5.0


@scenario(61, "servers of calls are killed, one every second, while another one is ready")
def servers_are_killed(stage: Stage) -> None:
    servers = [stage.callee() for _ in range(4)]
    for server in servers:
        server.ready()

    def kill() -> None:
        # Faster than they start on a busy machine, there would never be one to answer.
        ready = [server for server in servers if server.status("/ready") == 200]
        if len(ready) > 1 and stage.random.choice(ready).kill():
            stage.fault("call server killed")

    callers = Callers(stage)
    enough = stage.pick(short=400, full=10_000)
    with callers.calling(threads=25, tasks=25, seconds=0.1), stage.every(1.0, kill):
        _until(
            stage,
            lambda: (
                stage.ledger.accepted >= enough
                and stage.faults.total() >= 3
                and _was_begun_again(stage)
            ),
        )
    _check(stage, callers)


@scenario(61, "servers of calls die before the work, before the reply and after it")
def servers_die_at_the_worst_moments(stage: Stage) -> None:
    moments = ("before_work", "before_reply", "after_reply")
    # One at a time: each death is a delivery more for all that its server has in hand, and a call
    # that is delivered too often is buried, done or not.
    subject = {
        CONCURRENCY: "1",
        VARIABLE: ",".join(f"rpc.{moment}:kill%1" for moment in moments),
    }
    servers = [stage.callee(**subject) for _ in range(4)]
    for server in servers:
        server.ready()

    def deaths() -> Counter[str]:
        return sum((server.failpoints for server in servers), Counter())

    callers = Callers(stage, timeout_seconds=20.0)
    enough = stage.pick(short=200, full=5_000)
    with callers.calling(threads=8, tasks=8):
        _until(
            stage,
            lambda: (
                stage.ledger.accepted >= enough
                and len(deaths()) == len(moments)
                and _was_begun_again(stage)
            ),
        )
    stage.faults.update(deaths())
    _check(stage, callers)


@scenario(62, "the broker is killed and comes back while calls are under way")
def the_broker_is_killed(stage: Stage) -> None:
    servers = [stage.callee(), stage.callee()]
    for server in servers:
        server.ready()
    callers = Callers(stage, timeout_seconds=60.0)
    callers.call()
    stage.keep_declarations()
    told, back = [], []
    for _ in range(stage.pick(short=1, full=5)):
        in_hand = len(stage.ledger.executions()) + 20 + callers.errors.total()
        with ThreadPoolExecutor(20) as pool:
            calls = [pool.submit(callers.call, seconds=5.0) for _ in range(20)]
            # A call may be refused on a busy machine.
            until(partial(_have_begun, stage, in_hand, callers))
            stage.server.kill()
            killed_at = time.monotonic()
            stage.fault("broker killed")
            wait(calls)
            told.append(time.monotonic() - killed_at)
        stage.server.start()
        up_at = time.monotonic()
        until(lambda: _is_answered(stage, callers))
        back.append(time.monotonic() - up_at)
    stage.figures["back_seconds"] = max(back)
    stage.note("told_seconds", max(told), limit=20.0)
    assert callers.errors["Disconnected"], callers.errors
    _check(stage, callers)


@scenario(63, "all connections are cut every other second")
def connections_are_cut(stage: Stage) -> None:
    for server in [stage.callee(), stage.callee()]:
        server.ready()
    callers = Callers(stage)
    enough = stage.pick(short=400, full=10_000)
    with callers.calling(threads=25, tasks=25, seconds=0.1), stage.every(2.0, stage.cut):
        _until(
            stage,
            lambda: (
                stage.ledger.accepted >= enough
                and stage.faults.total() >= 2
                and callers.errors["Disconnected"] > 0
            ),
        )
    _check(stage, callers)


@scenario(64, "servers take longer than their callers wait")
def servers_are_too_slow(stage: Stage) -> None:
    places = 8
    stage.callee(**{CONCURRENCY: str(places)}).ready()
    callers = Callers(stage, timeout_seconds=15.0)
    with ThreadPoolExecutor(2 * places) as pool:
        slow = [pool.submit(callers.call, gate=stage.gate) for _ in range(places)]
        until(lambda: _have_begun(stage, places))
        in_vain = [pool.submit(callers.call) for _ in range(places)]
        wait(slow + in_vain)
    stage.fault("server slow")
    assert callers.errors == {"DeadlineExceeded": 2 * places}
    stage.open_gate()
    until(lambda: stage.calls.late_replies == places)
    _check(stage, callers)
    begun = stage.ledger.executions()
    assert set(begun) == {call.result() for call in slow}, "work was begun that nobody waited for"


@scenario(65, "threads and an event loop share one client", keeps_books=False)
def one_client_is_shared(stage: Stage) -> None:
    stage.callee().ready()
    threads, each = 32, stage.pick(short=100, full=2_000)
    options: dict[str, Any] = {"function": "echo", "timeout_seconds": 60.0}

    def on_a_thread(number: int) -> int:
        asked = [f"{number}-{turn}" for turn in range(each)]
        return sum(stage.calls.call(CALLS_QUEUE, one, **options) != one for one in asked)

    async def on_a_task(number: int) -> int:
        asked = [f"{number}-{turn}" for turn in range(each)]
        return sum([await stage.calls.acall(CALLS_QUEUE, one, **options) != one for one in asked])

    async def on_a_loop() -> int:
        return sum(await asyncio.gather(*(on_a_task(-1 - number) for number in range(threads))))

    began = time.monotonic()
    with ThreadPoolExecutor(threads + 1) as pool:
        loop = pool.submit(asyncio.run, on_a_loop())
        mixed = sum(pool.map(on_a_thread, range(threads))) + loop.result()
    calls = 2 * threads * each
    stage.figures |= {"calls": calls, "per_second": calls / (time.monotonic() - began)}
    assert mixed == 0, f"{mixed} callers were given the answer of another"


@scenario(68, "nobody serves the queue")
def nobody_is_there(stage: Stage) -> None:
    callers = Callers(stage, timeout_seconds=120.0)
    waited = [_seconds_until_refused(callers)]  # the queue was never declared
    server = stage.callee().ready()
    until(lambda: _is_answered(stage, callers))
    assert server.stop() == 0
    waited.append(_seconds_until_refused(callers))
    server.start().ready()
    with ThreadPoolExecutor(1) as pool:
        in_hand = len(stage.ledger.executions()) + 1
        call = pool.submit(callers.call, gate=stage.gate)
        until(lambda: _have_begun(stage, in_hand))
        server.close()
        stage.fault("call server killed")
        killed_at, before = time.monotonic(), callers.errors["Unavailable"]
        wait([call])
        waited.append(time.monotonic() - killed_at)
    assert callers.errors["Unavailable"] == before + 1, callers.errors
    # None of them waited for its deadline: that would have been another error.
    stage.note("waited_seconds", max(waited), limit=15.0)
    stage.open_gate()
    server.start()
    _check(stage, callers)


def _check(stage: Stage, callers: Callers) -> None:
    """Check what holds for all callers, whatever happened, and that nothing is left of them."""
    stage.note("late_seconds", callers.late_seconds, limit=LATE_SECONDS)
    stage.figures |= {f"heard_{name}": count for name, count in callers.errors.items()}
    assert callers.mixed == 0, f"{callers.mixed} callers were given the answer of another"
    stage.settle()
    stage.calls.close()
    assert not stage.reply_paths(), "something is left of callers that are gone"


def _until(stage: Stage, check: Callable[[], bool]) -> None:
    until(check, timeout_seconds=stage.pick(short=900, full=1800), every_seconds=0.2)


def _was_begun_again(stage: Stage) -> bool:
    return max(stage.ledger.executions().values(), default=0) > 1


def _have_begun(stage: Stage, count: int, callers: Callers | None = None) -> bool:
    """Were so many calls begun? Where *callers* are given, their errors count too."""
    failed = 0 if callers is None else callers.errors.total()
    return len(stage.ledger.executions()) + failed >= count


def _is_answered(stage: Stage, callers: Callers) -> bool:
    unit = callers.call()
    return stage.ledger.outcomes()[unit] == "accepted"


def _seconds_until_refused(callers: Callers) -> float:
    before, began = Counter(callers.errors), time.monotonic()
    callers.call()
    heard = Counter(callers.errors) - before
    # The latter when it was there a moment ago, so that the request was sent.
    assert heard in (Counter(("NoRoute",)), Counter(("Unavailable",))), heard
    return time.monotonic() - began
