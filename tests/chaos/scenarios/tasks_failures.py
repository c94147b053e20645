"""Tasks that fail: for good, in passing, by taking too long or too much."""

from __future__ import annotations

from mainstay.context import CORRELATION_ID, TRACEPARENT
from tests.chaos.scenarios.catalogue import scenario
from tests.chaos.senders import Senders
from tests.chaos.stage import Stage
from tests.chaos.waiting import until

FAILURES = 3
# A task that stops when it is asked to has all the time it needs for that; one that does not has
# certainly begun not to listen when it is asked.
ASKED = {"soft_time_limit": 1, "time_limit": 120}
MADE = {"soft_time_limit": 4, "time_limit": 6}


@scenario(6, "tasks fail for good")
def tasks_fail_for_good(stage: Stage) -> None:
    stage.worker().ready()
    senders = Senders(stage)
    count = stage.pick(short=5, full=500)
    for number in range(count):
        senders.send("break_down", options={"headers": {"x-order": f"order {number}"}})
    stage.fault("task broken")
    stage.settle()
    letters = stage.dead()
    assert sorted(letter.headers["x-order"] for letter in letters) == sorted(
        f"order {number}" for number in range(count)
    )
    for letter in letters:
        assert (letter.reason, letter.name) == ("failed:ValueError", "break_down")
        assert letter.detail == f"{letter.id} can never be done"
        assert letter.headers[TRACEPARENT]
        assert letter.headers[CORRELATION_ID]
    assert stage.books().redone == 0, "what can never be done was tried again"


@scenario(7, "tasks fail in passing, three times each")
def tasks_fail_in_passing(stage: Stage) -> None:
    worker = stage.worker(concurrency=4).ready()
    units = Senders(stage).send_many(
        stage.pick(short=10, full=500), "record_at_last", failures=FAILURES
    )
    stage.settle()
    books = stage.books()
    assert (books.done, books.dead) == (len(units), 0), stage.reasons
    assert set(stage.ledger.executions().values()) == {1 + FAILURES}
    failed = [line for line in worker.lines("task") if line["outcome"] == "retry"]
    stage.faults["task failed in passing"] = len(failed)
    # A server that does not answer is left alone for a second at least.
    for attempt, least, most in ((1, 1.0, 1.25), (2, 1.0, 1.5), (3, 1.0, 2.0)):
        pauses = [line["retry_in_seconds"] for line in failed if line["attempt"] == attempt]
        assert all(least <= pause <= most for pause in pauses), pauses
        assert len(set(pauses)) > 1, "what failed together comes back together"


@scenario(8, "tasks take too long, and some do not stop when asked to")
def tasks_take_too_long(stage: Stage) -> None:
    worker = stage.worker(concurrency=2).ready()
    began_with = set(worker.children)
    senders = Senders(stage)
    for _ in range(stage.pick(short=1, full=20)):
        patient = senders.send("overrun", stubborn=False, options=ASKED)
        stubborn = senders.send("overrun", stubborn=True, options=MADE)
        stage.faults.update(("task too slow", "task too slow and deaf"))
        senders.send_many(5)
    stage.settle()
    reasons = {letter.id: letter.reason for letter in stage.dead()}
    assert reasons[patient] == "failed:SoftTimeLimitExceeded"
    assert reasons[stubborn] == "time-limit"
    assert len(reasons) == 2 * stage.faults["task too slow"]
    assert stage.books().redone == 0, "what takes too long was begun again"
    until(lambda: set(worker.children) - began_with)  # the child was replaced


@scenario(9, "tasks take too much memory")
def tasks_take_too_much(stage: Stage) -> None:
    worker = stage.worker(concurrency=2).ready()
    main_process = worker.pid
    senders = Senders(stage)
    for _ in range(stage.pick(short=1, full=20)):
        exhausting, dying = senders.send("exhaust"), senders.send("die")
        stage.faults.update(("no memory for a task", "child killed each time"))
        senders.send_many(5)
    stage.settle()
    reasons = {letter.id: letter.reason for letter in stage.dead()}
    assert reasons[exhausting] == "failed:MemoryError"
    assert reasons[dying] == "delivery-limit"
    assert len(reasons) == 2 * stage.faults["no memory for a task"]
    begun = stage.ledger.executions()
    assert (begun[exhausting], begun[dying]) == (1, 5), begun
    assert worker.pid == main_process, "the worker did not outlive its task"
