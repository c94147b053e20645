"""Everything at once, while one thing after the other fails."""

from __future__ import annotations

import time

from mainstay.failpoints import VARIABLE
from tests.chaos.faults import Ends, faults_of_processes, faults_of_servers
from tests.chaos.load import Load
from tests.chaos.scenarios.catalogue import scenario
from tests.chaos.stage import Stage
from tests.chaos.storm import Storm
from tests.chaos.wires import Wires

TELL_SECONDS = 10.0
# How long after its deadline a call may end, when all stands still for a while.
LATE_SECONDS = 10.0
# Where processes die by themselves now and then, whatever else befalls them.
_DIES = {
    "worker": ("tasks.before_commit", "tasks.after_commit"),
    "callee": ("rpc.before_work", "rpc.before_reply", "rpc.after_reply"),
    "api": ("keys.after_claim", "keys.after_effect", "keys.after_commit"),
}


@scenario(27, "tasks, calls and requests, while one thing after the other fails")
def soak(stage: Stage) -> None:
    redis = stage.broker == "redis"
    units = stage.pick(short=500, full=40_000 if redis else 60_000)
    least, longest = stage.pick(short=8, full=150), stage.pick(short=1500, full=3000)
    with Wires() as wires:
        # Half of the processes reach their servers over wires that can be disturbed.
        broker = wires.to(stage.broker_url)
        far = {
            "CELERY_BROKER_URL": broker,
            "REDIS_URL" if redis else "RABBITMQ_URL": broker,
            "DATABASE_URL": wires.to(stage.database_url),
        }
        percent = stage.pick(short=1.0, full=0.2)
        workers = [
            stage.worker(concurrency=2, **_dies("worker", percent), **way) for way in (far, {})
        ]
        callees = [stage.callee(**_dies("callee", percent), **way) for way in (far, {})]
        apis = [stage.api(**_dies("api", percent), **way) for way in (far, {})]
        sender = stage.sender()
        armed = [*workers, *callees, *apis]
        for process in armed:
            process.ready()
        stage.keep_declarations()

        ends = Ends()
        load = Load(stage, apis, per_second=stage.pick(short=15, full=40))
        storm = Storm(
            stage,
            faults_of_processes(workers, callees, apis, [sender], ends=ends),
            faults_of_servers(stage, wires),
            every_seconds=stage.pick(short=2.0, full=5.0),
            longest_seconds=stage.pick(short=2.0, full=25.0),
        )
        began = told = time.monotonic()

        def is_enough() -> bool:
            nonlocal told
            storm.check()
            assert time.monotonic() - began < longest, "it takes too long"
            accepted, faults = stage.ledger.accepted, stage.faults
            if time.monotonic() - told >= TELL_SECONDS:
                told = time.monotonic()
                stage.say(
                    f"{told - began:5.0f} s  accepted {accepted}, waiting {load.waiting}, "
                    f"faults {faults.total()} of {len(faults)} kinds"
                )
            has_hit = max(stage.ledger.executions().values(), default=0) > 1
            return accepted >= units and faults.total() >= least and has_hit

        with load.running(), storm.raging():
            while not is_enough():
                time.sleep(0.5)
        assert sender.stop() == 0
        stage.settle()
        for process in armed:
            # One that a failpoint has just killed may be starting, and cannot be asked yet.
            process.ready()
        unclean = ends.unclean + [f"{name} {code}" for name, code in stage.stop().items()]
    for process in armed:
        stage.faults.update(process.failpoints)
    stage.figures["seconds"] = time.monotonic() - began
    stage.note("late_seconds", load.callers.late_seconds, limit=LATE_SECONDS)
    stage.figures["slowest_end_seconds"] = ends.slowest_seconds
    assert not unclean, f"who was asked to end did not do it well: {unclean}"
    assert load.callers.mixed == 0, f"{load.callers.mixed} callers had the answer of another"
    assert not stage.reply_paths(), "something is left of callers that are gone"


def _dies(kind: str, percent: float) -> dict[str, str]:
    return {VARIABLE: ",".join(f"{point}:kill%{percent}" for point in _DIES[kind])}
