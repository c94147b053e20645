"""Workers that begin: while their processes are killed, and while their broker lets nobody in."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from mainstay.testing import FaultProxy
from tests.chaos.deaths import percentiles, until_gone
from tests.chaos.processes import Process
from tests.chaos.scenarios.catalogue import scenario
from tests.chaos.senders import Senders
from tests.chaos.stage import Stage
from tests.chaos.waiting import until
from tests.chaos.wires import Wires

CANARY = "canary-of-the-coal-mine"
SENT = 20


@scenario(25, "the first children of a worker are killed while it begins")
def children_are_killed_at_the_start(stage: Stage) -> None:
    Senders(stage).send_many(SENT)
    ready = []
    for _ in range(stage.pick(short=2, full=30)):
        worker = stage.worker(concurrency=4)
        for child in _first_children(worker):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
                stage.fault("child killed at the start")
        killed_at = time.monotonic()
        worker.ready()
        ready.append(time.monotonic() - killed_at)
        assert all(crash.code for crash in worker.crashes), (
            "a worker that could not begin said that all was well"
        )
        worker.crashes.clear()
        assert worker.stop() == 0
    stage.worker().ready()
    stage.settle()
    stage.figures |= percentiles("ready", ready)
    assert stage.books().done == SENT, stage.books()


@scenario(25, "a worker is killed while it begins, with the first of its children just there")
def workers_are_killed_at_the_start(stage: Stage) -> None:
    Senders(stage).send_many(SENT)
    worker = stage.worker(concurrency=4)
    for _ in range(stage.pick(short=5, full=100)):
        _first_children(worker)
        orphans = stage.kill(worker)
        until_gone(orphans)
    worker.ready()
    stage.settle()
    assert stage.books().done == SENT


@scenario(26, "a worker begins where its broker lets nobody in", keeps_books=False)
def the_broker_is_closed(stage: Stage) -> None:
    url = stage.broker_url
    password = stage.server.password
    wrong = {"wrong password": url.replace(password, CANARY)}
    if stage.broker == "rabbitmq":
        wrong["no such virtual host"] = url.replace(stage.name, "nowhere")
    workers = {}
    with Wires() as wires:
        wrong["port closed"] = wires.to(url)
        wires.disturb(FaultProxy.refuse)
        for kind, closed in wrong.items():
            workers[kind] = stage.worker(CELERY_BROKER_URL=closed)
            stage.fault(kind)
        for kind, worker in workers.items():
            _until_it_has_tried(worker, 3)
            assert worker.status("/healthz") == 200, kind
            assert worker.status("/ready") == 503, kind
        wires.disturb(FaultProxy.heal)
        workers["port closed"].ready()
        assert [worker.stop() for worker in workers.values()] == [0] * len(workers)
    for kind, worker in workers.items():
        log = worker.log.read_text()
        assert password not in log, kind
        assert CANARY not in log, kind


def _first_children(worker: Process) -> list[int]:
    return until(lambda: worker.children, every_seconds=0.002)


def _until_it_has_tried(worker: Process, times: int) -> None:
    """Wait until it has said so often that the broker cannot be reached."""
    said = "cannot be reached"
    until(lambda: worker.log.read_text().count(said) >= times)
