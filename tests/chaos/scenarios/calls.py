"""Calls, while their servers and their broker die, and while their callers lose patience."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial

from mainstay.failpoints import VARIABLE
from mainstay.testing import eventually
from tests.chaos.callers import Callers
from tests.chaos.scenarios.catalogue import scenario
from tests.chaos.stage import Stage
from tests.chaos.subject.service import CALLS_QUEUE, CONCURRENCY

# Generous: how long after its deadline a call may end on a machine that does much else.
LATE_SECONDS = 5.0


@scenario(61, "one of four servers of calls is killed every second")
def servers_are_killed(stage: Stage) -> None:
    servers = [stage.callee() for _ in range(4)]
    for server in servers:
        server.ready()

    def kill() -> None:
        if stage.random.choice(servers).kill():
            stage.fault("call server killed")

    callers = Callers(stage)
    enough = stage.pick(short=400, full=10_000)
    with callers.calling(threads=25, tasks=25, seconds=0.1), stage.every(1.0, kill):
        _until(stage, lambda: stage.ledger.accepted >= enough and stage.faults.total() >= 3)
    _check(stage, callers)
    assert stage.books().redone, "no kill hit a call under way"


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
        _until(stage, lambda: stage.ledger.accepted >= enough and len(deaths()) == len(moments))
    stage.faults.update(deaths())
    _check(stage, callers)
    assert stage.books().redone, "no call was delivered again"


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
        in_hand = len(stage.ledger.executions()) + 20
        with ThreadPoolExecutor(20) as pool:
            calls = [pool.submit(callers.call, seconds=2.0) for _ in range(20)]
            eventually(partial(_have_begun, stage, in_hand))
            stage.server.kill()
            killed_at = time.monotonic()
            stage.fault("broker killed")
            wait(calls)
            told.append(time.monotonic() - killed_at)
        stage.server.start()
        up_at = time.monotonic()
        eventually(lambda: _is_answered(stage, callers), timeout_seconds=60.0)
        back.append(time.monotonic() - up_at)
    stage.figures |= {"told_seconds": max(told), "back_seconds": max(back)}
    assert max(told) < 20.0, "callers were not told that their broker had gone"
    assert callers.errors["Disconnected"], callers.errors
    _check(stage, callers)


@scenario(63, "all connections are cut every other second")
def connections_are_cut(stage: Stage) -> None:
    for server in [stage.callee(), stage.callee()]:
        server.ready()
    callers = Callers(stage)
    enough = stage.pick(short=400, full=10_000)
    with callers.calling(threads=25, tasks=25, seconds=0.1), stage.every(2.0, stage.cut):
        _until(stage, lambda: stage.ledger.accepted >= enough and stage.faults.total() >= 2)
    _check(stage, callers)
    assert callers.errors["Disconnected"], "no cut hit a call under way"


@scenario(64, "servers take twice as long as their callers wait")
def servers_are_too_slow(stage: Stage) -> None:
    places = 8
    stage.callee(**{CONCURRENCY: str(places)}).ready()
    callers = Callers(stage, timeout_seconds=1.0)
    with ThreadPoolExecutor(2 * places) as pool:
        slow = [pool.submit(callers.call, seconds=2.0) for _ in range(places)]
        eventually(lambda: _have_begun(stage, places))
        in_vain = [pool.submit(callers.call) for _ in range(places)]
        wait(slow + in_vain)
    stage.fault("server slow")
    assert callers.errors == {"DeadlineExceeded": 2 * places}
    eventually(lambda: stage.calls.late_replies == places)
    _check(stage, callers)
    begun = stage.ledger.executions()
    assert set(begun) == {call.result() for call in slow}, "work was begun that nobody waited for"


@scenario(65, "threads and an event loop share one client", keeps_books=False)
def one_client_is_shared(stage: Stage) -> None:
    stage.callee().ready()
    threads, each = 32, stage.pick(short=100, full=2_000)

    def on_a_thread(number: int) -> int:
        asked = [f"{number}-{turn}" for turn in range(each)]
        return sum(stage.calls.call(CALLS_QUEUE, one, function="echo") != one for one in asked)

    async def on_a_task(number: int) -> int:
        asked = [f"{number}-{turn}" for turn in range(each)]
        return sum(
            [await stage.calls.acall(CALLS_QUEUE, one, function="echo") != one for one in asked]
        )

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
    callers = Callers(stage, timeout_seconds=30.0)
    waited = [_seconds_until_refused(callers)]  # the queue was never declared
    server = stage.callee().ready()
    eventually(lambda: _is_answered(stage, callers))
    assert server.stop() == 0
    waited.append(_seconds_until_refused(callers))
    server.start().ready()
    with ThreadPoolExecutor(1) as pool:
        in_hand = len(stage.ledger.executions()) + 1
        call = pool.submit(callers.call, seconds=3.0)
        eventually(lambda: _have_begun(stage, in_hand))
        server.close()
        stage.fault("call server killed")
        killed_at, before = time.monotonic(), callers.errors["Unavailable"]
        wait([call])
        waited.append(time.monotonic() - killed_at)
    assert callers.errors["Unavailable"] == before + 1, callers.errors
    stage.figures["waited_seconds"] = max(waited)
    assert max(waited) < 15.0, "a call waited for its deadline in vain"
    server.start()
    _check(stage, callers)


def _check(stage: Stage, callers: Callers) -> None:
    """Check what holds for all callers, whatever happened, and that nothing is left of them."""
    stage.figures["late_seconds"] = callers.late_seconds
    stage.figures |= {f"heard_{name}": count for name, count in callers.errors.items()}
    assert callers.mixed == 0, f"{callers.mixed} callers were given the answer of another"
    assert callers.late_seconds < LATE_SECONDS, "a call outlasted its deadline"
    stage.settle()
    stage.calls.close()
    assert not stage.reply_paths(), "something is left of callers that are gone"


def _until(stage: Stage, check: Callable[[], bool]) -> None:
    eventually(check, timeout_seconds=stage.pick(short=90, full=1800), every_seconds=0.2)


def _have_begun(stage: Stage, count: int) -> bool:
    return len(stage.ledger.executions()) >= count


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
