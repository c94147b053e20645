"""Tasks, while their broker dies, takes nothing, forgets a queue or drops connections."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Callable

from tests.chaos.processes import Process
from tests.chaos.scenarios.catalogue import scenario
from tests.chaos.senders import Senders
from tests.chaos.stage import Stage
from tests.chaos.subject.service import QUEUE
from tests.chaos.waiting import until

# A sender is told within two seconds, on a machine that does nothing else.
TOLD_SECONDS = 20.0
# What RabbitMQ has where nobody says otherwise.
DISK_FREE_LIMIT, MEMORY_WATERMARK = '"50MB"', "0.4"
CONSUMER_TIMEOUT_MS, CHANNEL_TICK_MS = 1_800_000, 60_000


@scenario(16, "the broker is killed while a backlog is worked off", on=("rabbitmq",))
def the_broker_is_killed_under_a_backlog(stage: Stage) -> None:
    count, kills = stage.pick(short=400, full=20_000), stage.pick(short=1, full=3)
    stage.worker().ready().stop()  # a worker declares more than what a sender needs
    senders = Senders(stage)
    senders.send_many(count)
    senders.insist()
    count = stage.ledger.accepted
    stage.keep_declarations()
    worker = stage.worker(concurrency=4).ready()
    back = []
    for turn in range(1, kills + 1):
        _until_left(stage, count - count * turn // (kills + 1))
        back.append(_kill_broker(stage))
    stage.settle()
    stage.figures |= {"back_seconds": max(back), "resurrected": _resurrected(worker)}
    assert stage.books().done == count


@scenario(18, "the broker is killed under senders who send on", on=("rabbitmq",))
def the_broker_is_killed_under_senders(stage: Stage) -> None:
    worker = stage.worker(concurrency=2).ready()
    senders = Senders(stage, ahead=stage.pick(short=100, full=0))
    senders.send()
    stage.keep_declarations()
    back = []
    with senders.sending(threads=8):
        for _ in range(stage.pick(short=1, full=5)):
            _until_accepted(senders, stage.pick(short=100, full=1_000))
            back.append(_kill_broker(stage))
        _until_accepted(senders, 50)
    stage.figures["back_seconds"] = max(back)
    stage.figures["unknown_at_first"] = senders.insist()
    stage.settle()
    stage.figures["resurrected"] = _resurrected(worker)
    stage.note("told_seconds", senders.slowest_seconds, limit=TOLD_SECONDS)


@scenario(19, "the broker has no room on its disk", on=("rabbitmq",))
def the_disk_is_full(stage: Stage) -> None:
    def limit(free: str) -> None:
        stage.servers.rabbitmq.evaluate(f"rabbit_disk_monitor:set_disk_free_limit({free}).")

    senders = _under_alarm(
        stage, "disk alarm", lambda: limit('"100000GB"'), lambda: limit(DISK_FREE_LIMIT)
    )
    assert senders.errors["Unconfirmed"]
    assert not senders.errors_except(), senders.errors


@scenario(20, "the broker has no memory left")
def the_memory_is_full(stage: Stage) -> None:
    def limit(share: str, most_bytes: int) -> None:
        if stage.broker == "rabbitmq":
            set_share = f"vm_memory_monitor:set_vm_memory_high_watermark({share})."
            stage.servers.rabbitmq.evaluate(set_share)
        else:
            stage.servers.redis.command(f"CONFIG SET maxmemory {most_bytes}")

    senders = _under_alarm(
        stage, "memory alarm", lambda: limit("0.0001", 1), lambda: limit(MEMORY_WATERMARK, 0)
    )
    expected = "Unconfirmed" if stage.broker == "rabbitmq" else "Overloaded"
    assert senders.errors[expected]
    assert not senders.errors_except(expected), senders.errors


@scenario(20, "a queue is as long as it may be", on=("rabbitmq",))
def a_queue_is_full(stage: Stage) -> None:
    senders, most = Senders(stage), 20
    senders.send()
    path = f"/policies/{stage.name}/short"
    policy = {"pattern": "^chaos$", "definition": {"max-length": most}, "apply-to": "queues"}
    stage.servers.rabbitmq.manage("PUT", path, policy)
    stage.fault("queue full")
    senders.send_many(stage.pick(short=200, full=5_000))
    # One whose confirmation was lost may be on the queue too.
    assert senders.outcomes["accepted"] + senders.outcomes["unknown"] >= most
    assert senders.errors["Overloaded"], senders.outcomes
    assert not senders.errors_except("Overloaded"), senders.errors
    stage.worker().ready()
    stage.settle()
    stage.servers.rabbitmq.manage("DELETE", path)
    senders.send_many(20)
    senders.insist()
    stage.settle()
    assert stage.books().unknown == 0


@scenario(
    21,
    "a queue is deleted under its worker, and a task is sent where no queue is",
    on=("rabbitmq",),
)
def a_queue_is_deleted(stage: Stage) -> None:
    stage.worker().ready()
    senders = Senders(stage)
    for _ in range(stage.pick(short=2, full=20)):
        senders.send_many(10)
        stage.settle()
        stage.servers.rabbitmq.manage("DELETE", f"/queues/{stage.name}/{QUEUE}")
        stage.fault("queue deleted")
        with senders.sending(threads=1):
            _until_accepted(senders, 1)
        senders.send(options={"exchange": QUEUE, "routing_key": "nowhere"})
        stage.fault("sent nowhere")
    senders.insist()
    stage.settle()
    assert senders.errors["NoRoute"]
    assert not senders.errors_except("NoRoute"), senders.errors
    assert stage.books().unknown == 0


@scenario(22, "all connections are cut while tasks are in progress")
def connections_are_cut(stage: Stage) -> None:
    for worker in [stage.worker(concurrency=2), stage.worker(concurrency=2)]:
        worker.ready()
    senders = Senders(stage, ahead=8)
    with senders.sending(seconds=0.3):
        for turn in itertools.count(1):
            _until_next(stage)
            stage.cut()
            # On Redis a worker takes another connection and goes on with what it has.
            has_hit = stage.broker == "redis" or max(stage.ledger.executions().values()) > 1
            if turn >= stage.pick(short=3, full=20) and has_hit:
                break
            assert turn < 200, "no cut hits a task that is in progress"
    senders.insist()
    stage.settle()


@scenario(22, "connections are cut after children died under their tasks", on=("rabbitmq",))
def connections_are_cut_after_deaths(stage: Stage) -> None:
    worker = stage.worker(concurrency=2).ready()
    senders = Senders(stage)
    for _ in range(stage.pick(short=6, full=30)):
        begun = len(stage.ledger.begun())
        for _child in worker.children:
            senders.send(seconds=1.0)
        until(lambda: len(stage.ledger.begun()) >= begun + 2)  # noqa: B023 - called at once
        stage.kill_child(worker)
        stage.cut()
        stage.settle()
        # While children are frozen, nothing but the worker could take what is meant for them.
        children = worker.children
        for child in children:
            os.kill(child, signal.SIGSTOP)
        stage.fault("children frozen")
        for _child in children:
            senders.send()
        until(lambda: stage.behind() == 0)
        for child in children:
            os.kill(child, signal.SIGCONT)
        stage.settle()


@scenario(24, "a task takes longer than its broker waits for the acknowledgement", on=("rabbitmq",))
def a_task_outlasts_the_consumer_timeout(stage: Stage) -> None:
    # Long enough for any other task to be done, on a busy machine too.
    _wait_for_acknowledgements(stage, CONSUMER_TIMEOUT_MS // 360, CHANNEL_TICK_MS // 240)
    try:
        stage.worker().ready()
        senders = Senders(stage)
        unit = senders.send(seconds=600.0)
        stage.fault("task too slow for the broker")
        senders.send_many(5)
        stage.settle()
    finally:
        _wait_for_acknowledgements(stage, CONSUMER_TIMEOUT_MS, CHANNEL_TICK_MS)
    senders.send_many(5)
    stage.settle()
    assert [(letter.id, letter.reason) for letter in stage.dead()] == [(unit, "delivery-limit")]


def _wait_for_acknowledgements(stage: Stage, timeout_ms: int, tick_ms: int) -> None:
    settings = {"consumer_timeout": timeout_ms, "channel_tick_interval": tick_ms}
    told = ", ".join(f"application:set_env(rabbit, {k}, {v})" for k, v in settings.items())
    stage.servers.rabbitmq.evaluate(f"{told}.")


def _under_alarm(
    stage: Stage, kind: str, begin: Callable[[], None], end: Callable[[], None]
) -> Senders:
    """Send on while the broker takes nothing, and again what nobody knows of afterwards; returns
    the senders.
    """
    stage.worker().ready()
    senders = Senders(stage, ahead=20)
    with senders.sending():
        _until_accepted(senders, 50)
        try:
            before = senders.errors.total()
            begin()
            # A worker may take nothing from such a broker, so the senders do not wait for it.
            senders.ahead = 0
            stage.fault(kind)
            until(lambda: senders.errors.total() >= before + 8)
            time.sleep(stage.pick(short=0, full=30))
        finally:
            end()
            senders.ahead = 20
        _until_accepted(senders, 50)
    stage.figures["unknown_at_first"] = senders.insist()
    stage.settle()
    stage.note("told_seconds", senders.slowest_seconds, limit=TOLD_SECONDS)
    return senders


def _kill_broker(stage: Stage) -> float:
    """Kill it and start it again; returns how many seconds after it was up a task was begun."""
    stage.server.kill()
    stage.fault("broker killed")
    stage.server.start()
    up_at = time.time()
    last = until(lambda: [one for one in stage.ledger.begun()[-1:] if one.at > up_at])
    return round(last[0].at - up_at, 3)


def _until_next(stage: Stage) -> None:
    """Wait until one more task is begun."""
    before = len(stage.ledger.begun())
    until(lambda: len(stage.ledger.begun()) > before)


def _until_left(stage: Stage, count: int) -> None:
    """Wait until only so many units have not been begun."""
    until(lambda: stage.ledger.not_begun() <= count, timeout_seconds=600.0)


def _until_accepted(senders: Senders, count: int) -> None:
    """Wait until so many more tasks are accepted."""
    enough = senders.outcomes["accepted"] + count
    until(lambda: senders.outcomes["accepted"] >= enough, timeout_seconds=600.0)


def _resurrected(worker: Process) -> int:
    """Return how many deliveries found their task done: the broker had forgotten that."""
    done = Counter(line["task_id"] for line in worker.lines("task") if line["outcome"] == "done")
    return sum(count - 1 for count in done.values())
