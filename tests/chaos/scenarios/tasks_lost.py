"""Tasks that the broker loses, and tasks that only seem to be lost."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Callable, Mapping

from mainstay.resources.sqlalchemy import Database
from mainstay.testing import RabbitMQ, Redis
from tests.chaos.faults import Ends, faults_of_processes, faults_of_servers
from tests.chaos.processes import Process
from tests.chaos.scenarios.catalogue import scenario
from tests.chaos.senders import Senders
from tests.chaos.stage import Stage
from tests.chaos.storm import Storm
from tests.chaos.subject.service import QUEUE
from tests.chaos.waiting import until
from tests.chaos.wires import Wires

# How long after its time a lost task may be reported.
REPORTED_SECONDS = 120.0
TELL_SECONDS = 30.0
_LOST = "select count(*) from mainstay.task_status where state = 'lost'"
_WAITING = "select count(*) from mainstay.task_status where state in ('waiting', 'started')"
_OPEN = "select count(*) from mainstay.task_status where state <> 'success'"


@scenario(17, "the broker loses all that it has, and it is sent again")
def the_broker_forgets(stage: Stage) -> None:
    lost_after_seconds = stage.pick(short=10.0, full=60.0)
    count = stage.pick(short=20, full=300)
    settings = {"APP_LOST_AFTER_SECONDS": f"{lost_after_seconds:g}"}
    worker = stage.worker(concurrency=1, **settings).ready()
    senders = Senders(stage)
    for number, (kind, lose) in enumerate(_losses(stage).items()):
        gate = stage.folder / f"gate-{number}"
        senders.send(gate=str(gate))
        until(lambda: stage.ledger.not_begun() == 0)
        senders.send_many(count // 2)
        for _ in range(count - count // 2):
            _send_with_commit(stage)
        until(lambda: stage.behind() >= count)
        lose()
        stage.fault(kind)
        began = time.monotonic()
        gate.touch()
        # Some may be in the hands of the worker, and are done.
        until(lambda: stage.sql(_WAITING) == "0")
        after_seconds = time.monotonic() - began - lost_after_seconds
        stage.note(f"reported_seconds_{number}", after_seconds, limit=REPORTED_SECONDS)
        stage.figures[f"reported_{number}"] = lost = int(stage.sql(_LOST))
        assert lost >= count - 2, f"only {lost} of {count} are reported"
        assert _health(worker) == "degraded", "the health says nothing of lost tasks"
        until(lambda: _send_again(stage) and stage.sql(_OPEN) == "0")
        until(lambda: _health(worker) == "healthy")
    assert not stage.dead()


@scenario(23, "tasks wait for long while one thing after the other fails, and none is lost")
def tasks_wait_for_long(stage: Stage) -> None:
    lost_after_seconds = stage.pick(short=20.0, full=60.0)
    seconds, waiting = stage.pick(short=60, full=3600), stage.pick(short=400, full=50_000)
    workers, concurrency, task_seconds = 2, 2, stage.pick(short=0.5, full=2.0)
    with Wires() as wires:
        settings = {
            "APP_LOST_AFTER_SECONDS": f"{lost_after_seconds:g}",
            "CELERY_BROKER_URL": wires.to(stage.broker_url),
            "DATABASE_URL": wires.to(stage.database_url),
        }
        senders = Senders(stage)
        # The queue is worked off in order: for as long as the first ones take, the others wait.
        slow = int(workers * concurrency * seconds / task_seconds)
        senders.send_many(slow, seconds=task_seconds)
        senders.send_many(waiting)
        processes = [stage.worker(concurrency=concurrency, **settings) for _ in range(workers)]
        for process in processes:
            process.ready()
        stage.keep_declarations()
        ends = Ends()
        storm = Storm(
            stage,
            faults_of_processes(processes, ends=ends),
            faults_of_servers(stage, wires),
            every_seconds=stage.pick(short=4.0, full=30.0),
            longest_seconds=stage.pick(short=2.0, full=25.0),
        )
        told = time.monotonic()
        with storm.raging():
            while (left := stage.ledger.not_begun()) > waiting // 2:
                storm.check()
                if time.monotonic() - told >= TELL_SECONDS:
                    told = time.monotonic()
                    stage.say(f"{left} tasks wait, faults {stage.faults.total()}")
                time.sleep(1.0)
        # A busy machine may take as long again for what is left.
        until(lambda: stage.ledger.not_begun() == 0, timeout_seconds=7200.0, every_seconds=1.0)
        stage.settle()
        alarms = [line for process in processes for line in process.lines("lost")]
        assert alarms == [], "tasks that only waited were taken for lost"
        assert ends.unclean == []


def _losses(stage: Stage) -> Mapping[str, Callable[[], object]]:
    if isinstance(server := stage.server, RabbitMQ):
        return _losses_of_rabbitmq(stage, server)
    return _losses_of_redis(server)


def _losses_of_rabbitmq(stage: Stage, server: RabbitMQ) -> Mapping[str, Callable[[], object]]:
    def recreate() -> None:
        server.delete_vhost(stage.name)
        server.create_vhost(stage.name)

    return {
        "queue deleted": lambda: server.manage("DELETE", f"/queues/{stage.name}/{QUEUE}"),
        "virtual host deleted": recreate,
    }


def _losses_of_redis(server: Redis) -> Mapping[str, Callable[[], object]]:
    def evict() -> None:
        server.command("CONFIG SET maxmemory-policy allkeys-lru")
        server.command("CONFIG SET maxmemory 1")
        until(lambda: server.command("DBSIZE") == "0")
        server.command("CONFIG SET maxmemory 0")
        server.command("CONFIG SET maxmemory-policy noeviction")

    def fail_over() -> None:
        # What clients see when an empty replica takes over: the same address, and nothing there.
        server.kill()
        shutil.rmtree(server.folder / "appendonlydir")
        server.start()

    return {"flushed": server.clear, "evicted": evict, "failed over to an empty one": fail_over}


def _send_with_commit(stage: Stage) -> None:
    unit = stage.ledger.submit()
    with stage.app.service.resource(Database).session() as session:
        stage.app.send_task("record", (unit,), task_id=unit, session=session)
    stage.ledger.settle(unit, "accepted")


def _send_again(stage: Stage) -> bool:
    """Send again what is lost by now; true when nothing was."""
    lost = stage.app.lost
    assert lost is not None
    return all(not found.messages for found in lost.retry_all())


def _health(process: Process) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{process.port}/health") as answer:
        return str(json.load(answer)["status"])
