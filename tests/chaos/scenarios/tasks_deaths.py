"""Tasks, while the processes that do them die or are asked to end."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator

from tests.chaos.deaths import interrupted, percentiles, restarts, until_gone
from tests.chaos.processes import Process
from tests.chaos.scenarios.catalogue import scenario
from tests.chaos.senders import Senders
from tests.chaos.stage import Stage
from tests.chaos.waiting import until

# Long enough for a death to fall into a task; few enough wait for a restart to be soon.
TASK_SECONDS, AHEAD = 0.1, 8


@scenario(1, "a child of the pool is killed every half second")
def children_are_killed(stage: Stage) -> None:
    _kill_children(stage, stage.pick(short=10, full=700), "record", enough=lambda: _restarts(stage))
    stage.settle()
    _check(stage)


@scenario(2, "the main process of a worker is killed under its children", on=("rabbitmq",))
def parents_are_killed(stage: Stage) -> None:
    worker = stage.worker(concurrency=4)
    orphaned = []
    with Senders(stage, ahead=AHEAD).sending(seconds=TASK_SECONDS):
        for _ in _until_one_hit(stage, stage.pick(short=2, full=100)):
            _until_at_work(stage, worker)
            orphans = stage.kill(worker)
            killed_at = time.monotonic()
            until_gone(orphans)
            orphaned.append(time.monotonic() - killed_at)
    stage.settle()
    stage.figures |= percentiles("orphaned", orphaned)
    _check(stage)


@scenario(3, "a worker is killed with all its children", on=("rabbitmq",))
def groups_are_killed(stage: Stage) -> None:
    worker = stage.worker(concurrency=4)
    with Senders(stage, ahead=AHEAD).sending(seconds=TASK_SECONDS):
        for _ in _until_one_hit(stage, stage.pick(short=2, full=100)):
            _until_at_work(stage, worker)
            stage.kill(worker, whole=True)
    stage.settle()
    _check(stage)


@scenario(4, "children are killed under tasks that are not to be done again")
def children_are_killed_under_tasks_begun_once(stage: Stage) -> None:
    def hit() -> object:
        return stage.dead() or _restarts(stage)

    times = stage.pick(short=10, full=50)
    worker = _kill_children(stage, times, "record_or_bury", enough=hit)
    stage.settle()
    _check_begun_once(stage, worker)
    executions, letters = stage.ledger.begun(), stage.dead()
    killed = {one.unit for one in interrupted(executions, stage.deaths)}
    spared = {one.unit for one in executions} - killed
    assert not {letter.id for letter in letters} & spared, "a task is dead that was not killed"
    assert {letter.reason for letter in letters} == {"worker-lost"}, letters


@scenario(4, "children die before and after the commit of tasks that are not to be done again")
def children_die_at_the_commit(stage: Stage) -> None:
    dies = "tasks.before_commit:kill%10,tasks.after_commit:kill%10"
    worker = stage.worker(concurrency=4, MAINSTAY_FAILPOINT=dies).ready()
    Senders(stage, ahead=AHEAD).send_many(stage.pick(short=100, full=5_000), "record_or_bury")
    stage.settle()
    stage.faults.update(worker.failpoints)
    before, after = (f"tasks.{moment}_commit: kill" for moment in ("before", "after"))
    books = stage.books()
    assert stage.faults[after], "no child died after its commit"
    assert books.dead == stage.faults[before], f"what was done is dead, or what was not: {books}"
    _check_begun_once(stage, worker)


@scenario(14, "workers are asked to end, one after the other")
def workers_are_replaced(stage: Stage) -> None:
    count = stage.pick(short=2, full=4)
    workers = [stage.worker(concurrency=2) for _ in range(count)]
    for worker in workers:
        worker.ready()
    slowest = 0.0
    with Senders(stage, ahead=AHEAD).sending(seconds=TASK_SECONDS):
        for _ in range(stage.pick(short=1, full=10)):
            for worker in workers:
                began = time.monotonic()
                assert worker.terminate() == 0
                slowest = max(slowest, time.monotonic() - began)
                stage.fault("worker ended")
                worker.ready()
    stage.settle()
    stage.figures["end_seconds"] = round(slowest, 3)
    assert stage.books().dead == 0, stage.reasons
    _check_begun_once(stage, *workers)


@scenario(15, "a worker is killed at the end of its grace period, in the middle of a long task")
def workers_are_evicted(stage: Stage) -> None:
    grace, seconds = stage.pick(short=1, full=10), stage.pick(short=0, full=60)
    workers = [stage.worker(concurrency=2, APP_GRACE_SECONDS=str(grace)) for _ in range(2)]
    for worker in workers:
        worker.ready()
    senders = Senders(stage)
    while stage.ledger.accepted < 4:  # a queue may refuse while it is being declared
        senders.send(seconds=seconds, gate=stage.gate)
        senders.insist()
    until(lambda: len(stage.ledger.executions()) == 4)
    evicted, _other = workers
    assert evicted.evict(grace) in (0, -9)
    stage.fault("worker evicted")
    stage.open_gate()
    stage.settle()
    books = stage.books()
    assert (books.done, books.redone) == (4, 2), books


@scenario(28, "workers are killed and asked to end, and their Redis is killed", on=("redis",))
def workers_and_redis_die(stage: Stage) -> None:
    workers = [stage.worker(concurrency=2) for _ in range(2)]
    for worker in workers:
        worker.ready()
    senders = Senders(stage, ahead=AHEAD)
    back: list[float] = []
    with senders.sending(seconds=TASK_SECONDS):
        for _ in _until_one_hit(stage, stage.pick(short=1, full=10)):
            first, second = stage.random.sample(workers, 2)
            _until_at_work(stage, first)
            stage.kill(first, whole=True)
            _until_at_work(stage, second)
            stage.server.kill()
            stage.fault("Redis killed")
            stage.server.start()
            up_at = time.time()
            back.append(_until_at_work(stage, first, second) - up_at)
            assert second.terminate() == 0
            stage.fault("worker ended")
    senders.insist()
    stage.settle()
    stage.figures["back_seconds"] = round(max(back), 3)
    _check(stage)


def _kill_children(stage: Stage, times: int, name: str, *, enough: Callable[[], object]) -> Process:
    """Kill a child every half second while tasks are sent, if a task was begun since the last one:
    faster than children start, no task would ever be begun. Goes on to so many kills, and until
    there is *enough* of what they lead to; returns the worker.
    """
    worker = stage.worker(concurrency=4).ready()
    begun = 0

    def kill() -> None:
        nonlocal begun
        if len(stage.ledger.begun()) > begun:
            stage.kill_child(worker)
            begun = len(stage.ledger.begun())

    with Senders(stage, ahead=AHEAD).sending(name, seconds=TASK_SECONDS):
        # A worker that loses a child before its loop runs ends, which is another scenario (25);
        # its loop runs when it hands out tasks.
        _until_at_work(stage, worker)
        with stage.every(0.5, kill):
            until(lambda: stage.faults["child killed"] >= times and enough(), timeout_seconds=900.0)
    return worker


def _until_one_hit(stage: Stage, times: int) -> Iterator[int]:
    """Count to *times*, and on until a kill has interrupted a task that was begun again."""
    for turn in itertools.count():
        if turn >= times and _restarts(stage):
            return
        assert turn < 10 * times + 20, "no kill hits a task that is in progress"
        yield turn


def _until_at_work(stage: Stage, *workers: Process) -> float:
    """Wait until one of the workers begins a task, and return when that was."""
    now = time.time()

    def begun() -> list[float]:
        children = {child for worker in workers for child in worker.children}
        executions = stage.ledger.begun()
        return [one.at for one in executions if one.at > now and one.pid in children]

    return until(begun)[0]


def _check_begun_once(stage: Stage, *workers: Process) -> None:
    """Was every task begun once, and again only where its worker had logged a retry: it failed in
    passing, as tasks do whose database is slow on a busy machine?
    """
    begun = stage.ledger.executions()
    lines = [line for worker in workers for line in worker.lines("task")]
    retries = Counter(line["task_id"] for line in lines if line["outcome"] == "retry")
    wrong = {unit for unit, count in begun.items() if count > 1 + retries[unit]}
    evidence = [*stage.history(wrong), *(str(line) for line in lines if line["task_id"] in wrong)]
    assert not wrong, "\n".join(["tasks were begun again:", *evidence])
    stage.figures["retries"] = retries.total()


def _check(stage: Stage) -> None:
    """Was work interrupted, and was all of it done in the end?"""
    books = stage.books()
    stage.figures |= percentiles("restart", _restarts(stage))
    assert books.redone, "no fault hit a task under way"
    assert books.dead == 0, stage.reasons


def _restarts(stage: Stage) -> list[float]:
    return restarts(stage.ledger.begun(), stage.deaths)
