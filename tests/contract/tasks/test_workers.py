"""What a worker on a real broker promises while its children die and its tasks misbehave."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import chain
from sqlalchemy import text

from mainstay.context import new_id
from mainstay.errors import Invalid, TooLarge
from mainstay.resources.sqlalchemy import Database
from mainstay.tasks.celery import asend
from mainstay.tasks.status import State
from mainstay.testing import eventually
from tests.contract.tasks import sample
from tests.contract.tasks.rooms import CeleryRoom, worker_of
from tests.contract.tasks.test_malformed import headers
from tests.waiting import PATIENCE_SECONDS

Shared = Callable[[str], CeleryRoom]


def test_a_task_whose_process_was_killed_is_done_once_more(working_room: CeleryRoom) -> None:
    key = new_id()
    status = working_room.ended(working_room.send("kill_first", key))
    assert status.state is State.SUCCESS
    assert working_room.effects().count(f"kill_first {key}") == 2


def test_under_the_dead_letter_profile_it_is_a_dead_letter(working_room: CeleryRoom) -> None:
    key = new_id()
    id = working_room.send("kill_first_dead", key)
    assert working_room.letter(id).reason == "worker-lost"
    assert working_room.ended(id).state is State.FAILURE
    assert working_room.effects().count(f"kill_first {key}") == 1


def test_a_task_that_kills_its_process_each_time_is_stopped(working_room: CeleryRoom) -> None:
    key = new_id()
    id = working_room.send("kill_always", key)
    neighbours = [working_room.send("add", 1, 2) for _ in range(5)]
    status = working_room.ended(id)
    assert status.state is State.FAILURE
    assert working_room.letter(id).reason == "delivery-limit"
    assert working_room.effects().count(f"kill_always {key}") == 5
    for neighbour in neighbours:
        assert working_room.ended(neighbour).state is State.SUCCESS


def test_a_task_over_its_soft_limit_is_a_dead_letter(working_room: CeleryRoom) -> None:
    key = new_id()
    id = working_room.send("hold_limited", key)
    assert working_room.ended(id).state is State.FAILURE
    assert working_room.letter(id).reason == "failed:SoftTimeLimitExceeded"
    assert working_room.effects().count(f"hold {key}") == 1


def test_a_task_that_ignores_its_soft_limit_is_killed_and_a_dead_letter(
    working_room: CeleryRoom,
) -> None:
    key = new_id()
    id = working_room.send("stubborn", key)
    assert working_room.ended(id).state is State.FAILURE
    assert working_room.letter(id).reason == "time-limit"
    assert working_room.effects().count(f"stubborn {key}") == 1


def test_a_limit_that_is_given_when_it_is_sent_holds(working_room: CeleryRoom) -> None:
    key = new_id()
    id = working_room.send("hold", key, time_limit=1)
    assert working_room.letter(id).reason in ("failed:SoftTimeLimitExceeded", "time-limit")
    assert working_room.ended(id).state is State.FAILURE
    assert working_room.effects().count(f"hold {key}") == 1


def test_a_task_without_memory_is_a_dead_letter(working_room: CeleryRoom) -> None:
    id = working_room.send("hungry")
    assert working_room.letter(id).reason == "failed:MemoryError"
    assert working_room.ended(id).state is State.FAILURE


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the memory of a process")
def test_a_task_that_takes_all_memory_is_a_dead_letter(working_room: CeleryRoom) -> None:
    id = working_room.send("greedy")
    assert working_room.letter(id).reason == "failed:MemoryError"
    assert working_room.ended(id).state is State.FAILURE
    assert working_room.ended(working_room.send("add", 1, 2)).result == 3


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_a_body_of_any_size_costs_a_worker_little_memory(working_room: CeleryRoom) -> None:
    bodies = {
        new_id(): json.dumps([["x" * 10_000_000], {}, {}]),
        new_id(): "[" * 100_000 + "]" * 100_000,
    }
    pid = worker_of(working_room).process.pid
    before = resident_bytes(pid)
    for id, body in bodies.items():
        working_room.publish(body, headers(id=id))
    reasons = {working_room.letter(id).reason.partition(":")[0] for id in bodies}
    assert reasons == {"too-large", "decode"}
    assert working_room.ended(working_room.send("add", 1, 2)).result == 3
    grown = resident_bytes(pid) - before
    print(f"{grown / 2**20:.1f} MiB more than before")  # noqa: T201 - the figure
    # Three copies of the body, as it comes, and what Python keeps of them.
    assert grown < 100 * 2**20


def test_a_failure_that_passes_is_no_dead_letter(working_room: CeleryRoom) -> None:
    id = working_room.send("flaky", new_id(), 4)
    assert working_room.ended(id).attempts == 4
    assert not [letter for letter in working_room.dead() if letter.id == id]


def test_the_pauses_between_tries_grow(working_room: CeleryRoom) -> None:
    id = working_room.send("never_up", new_id())
    assert working_room.ended(id).attempts == 5
    worker = worker_of(working_room)
    eventually(lambda: len(worker.tries(id)) >= 5)
    tries = worker.tries(id)
    assert [line["outcome"] for line in tries] == ["retry"] * 4 + ["failed"]
    pauses = [line["retry_in_seconds"] for line in tries[:4]]
    for pause, ceiling in zip(pauses, (0.1, 0.2, 0.4, 0.8), strict=True):
        assert ceiling / 2 <= pause <= ceiling
    print("pauses", pauses)  # noqa: T201 - the figures


def test_a_task_tells_how_far_it_is(working_room: CeleryRoom) -> None:
    status = working_room.ended(working_room.send("steps", 3))
    assert status.result == 3
    assert status.meta == {"current": 3, "total": 3, "progress": 100.0, "note": "step 3"}


def test_a_delay_is_kept(working_room: CeleryRoom) -> None:
    sent_at = time.time()
    id = working_room.send("add", 1, 2, countdown=1.5)
    status = working_room.ended(id)
    assert status.result == 3
    assert status.updated_at - sent_at > 1.0


def test_a_task_that_was_called_off_is_not_done(working_room: CeleryRoom) -> None:
    control, id = working_room.app.control, new_id()
    control.revoke(id)
    worker = worker_of(working_room)
    eventually(lambda: id in working_room.revoked(worker))
    working_room.send("add", 901, 1, task_id=id)
    assert working_room.ended(id).state is State.REVOKED
    assert "add 901 1" not in working_room.effects()


def test_a_task_that_waited_too_long_is_a_dead_letter(working_room: CeleryRoom) -> None:
    id = working_room.send("add", 902, 1, expires=-5)
    assert working_room.letter(id).reason == "expired"
    assert "add 902 1" not in working_room.effects()


def test_a_task_that_waits_too_long_in_a_workers_hands_is_a_dead_letter(
    working_room: CeleryRoom,
) -> None:
    id = working_room.send("add", 903, 1, countdown=2, expires=1)
    assert working_room.letter(id).reason == "expired"
    assert working_room.ended(id).state is State.FAILURE
    assert "add 903 1" not in working_room.effects()
    # Nobody holds against it what became of it when it is put back.
    assert working_room.letters.retry(working_room.queue, lambda letter: letter.id == id) == 1
    eventually(lambda: working_room.ended(id).state is State.SUCCESS)
    assert "add 903 1" in working_room.effects()


def test_what_was_called_off_and_expires_then_is_called_off(shared: Shared) -> None:
    working_room = shared("redis")  # where the worker holds what is not due, and not the broker
    id = working_room.send("add", 904, 1, countdown=5, expires=1)
    working_room.app.control.revoke(id)
    assert working_room.ended(id).state is State.REVOKED
    assert not [letter for letter in working_room.dead() if letter.id == id]


def test_a_task_is_told_that_it_was_delivered_before(working_room: CeleryRoom) -> None:
    key = new_id()
    status = working_room.ended(working_room.send("reject_first", key))
    assert (status.state, status.result) == (State.SUCCESS, "done")
    assert working_room.effects().count(f"reject_first {key}") == 2


def test_a_dead_letter_that_is_put_back_is_done(working_room: CeleryRoom) -> None:
    key = new_id()
    id = working_room.send("kill_first_dead", key)
    working_room.letter(id)
    assert working_room.ended(id).state is State.FAILURE
    count = working_room.letters.retry(working_room.queue, lambda letter: letter.id == id)
    assert count == 1
    eventually(lambda: working_room.ended(id).state is State.SUCCESS)
    assert not [letter for letter in working_room.dead() if letter.id == id]


def test_each_task_is_one_line_of_json(working_room: CeleryRoom) -> None:
    worker = worker_of(working_room)
    id = working_room.send("add", 1, 2)
    working_room.ended(id)
    lines = eventually(lambda: worker.tries(id))
    assert len(lines) == 1
    line = lines[0]
    assert (line["name"], line["outcome"], line["level"]) == ("add", "done", "info")
    assert line["duration_ms"] >= 0
    assert line["correlation_id"]
    assert line["trace_id"]
    strange = [e for e in worker.log.read_bytes().splitlines() if not e.startswith(b"{")]
    assert strange == []


def test_the_workers_port_answers(working_room: CeleryRoom) -> None:
    worker = worker_of(working_room)
    # The first look at the schema imports what can read it.
    eventually(lambda: worker.get("/ready")[0] == 200)
    for path in ("/health", "/ready", "/readyz", "/healthz"):
        status, body = worker.get(path)
        assert (status, json.loads(body)["status"]) == (200, "healthy")
    assert "broker" in json.loads(worker.get("/health")[1])["checks"]
    assert {"consumer", "backlog"} <= set(json.loads(worker.get("/healthz")[1])["checks"])


def test_counts_are_right_after_children_died(working_room: CeleryRoom) -> None:
    worker = worker_of(working_room)
    name = "mainstay_task_duration_seconds_count"
    before = worker.metric(name, name="add", outcome="done")
    for id in [working_room.send("add", 1, 2) for _ in range(10)]:
        working_room.ended(id)
    eventually(lambda: worker.metric(name, name="add", outcome="done") == before + 10)
    for child in worker.children:
        os.kill(child, signal.SIGKILL)
    for id in [working_room.send("add", 1, 2) for _ in range(5)]:
        working_room.ended(id)
    eventually(lambda: worker.metric(name, name="add", outcome="done") == before + 15)
    assert worker.metric("app_up") == 1


def test_queues_are_measured(working_room: CeleryRoom) -> None:
    worker, queue = worker_of(working_room), working_room.queue
    working_room.letter(working_room.send("broken", "x"))
    dead = len(working_room.dead())
    eventually(lambda: worker.metric("mainstay_dead_letters", queue=queue) == dead)
    assert f'mainstay_queue_messages{{queue="{queue}",state="ready"}}' in worker.get("/metrics")[1]


def test_the_pool_is_one_that_gives_nothing_to_a_second_process(working_room: CeleryRoom) -> None:
    told = working_room.app.control.inspect(timeout=PATIENCE_SECONDS, limit=1).stats() or {}
    found = {stats["pool"]["implementation"] for stats in told.values()}
    assert found == {"mainstay.tasks.celery.pool:TaskPool"}


def test_what_is_due_much_later_is_refused_without_a_database(redis_room: CeleryRoom) -> None:
    with pytest.raises(Invalid, match="600 s at most"):
        redis_room.send("add", 1, 2, countdown=3600)


def test_what_no_worker_would_take_is_refused_at_the_sender(working_room: CeleryRoom) -> None:
    with pytest.raises(TooLarge, match="bytes of JSON"):
        working_room.send("add", "x" * 1_100_000, 2)
    nested: list[object] = []
    for _ in range(100):
        nested = [nested]
    with pytest.raises(TooLarge, match="levels deep"):
        working_room.send("add", nested, 2)


def test_what_is_just_accepted_at_the_sender_is_begun(working_room: CeleryRoom) -> None:
    id = working_room.send("add", "x" * (2**20 - 60), 2)
    assert working_room.letter(id).reason == "failed:TypeError"


async def test_sending_leaves_the_event_loop_alone(working_room: CeleryRoom) -> None:
    task = working_room.app.task(sample.add, name="add")
    ids = await asyncio.gather(*(asend(task, 1, each) for each in range(20)))
    assert len(set(ids)) == 20
    for each, id in enumerate(ids):
        assert working_room.ended(id).result == 1 + each
    assert await working_room.app.astatus("never-issued") is None


def test_a_task_with_once_has_one_effect_however_often_it_comes(shared: Shared) -> None:
    room = shared("rabbitmq")
    id, key = new_id(), new_id()
    body = json.dumps([[key], {}, {}])
    for _ in range(3):
        room.publish(body, headers(id=id, task="store_once"))
    assert room.ended(id).result == key
    last = room.send("add", 1, 2)
    room.ended(last)
    eventually(
        lambda: (
            worker_of(room).metric(
                "mainstay_task_duration_seconds_count", name="store_once", outcome="done"
            )
            >= 3
        )
    )
    assert rows(room, key) == 1


def test_what_comes_after_a_task_with_once_is_sent_though_its_worker_died(shared: Shared) -> None:
    room = shared("rabbitmq")
    key = new_id()
    first, second = (room.app.signature(name) for name in ("store_once_and_die", "add"))
    sent = chain(first.clone((key,)), second.clone(("+",))).apply_async()
    assert room.ended(sent.id).result == f"{key}+"
    eventually(
        lambda: sent.parent.id in [e["task_id"] for e in worker_of(room).lines("worker_lost")]
    )
    assert room.effects().count(f"store_once_and_die {key}") == 1
    assert room.effects().count(f"add {key} +") == 1
    assert rows(room, key) == 1


def test_a_task_whose_process_died_after_its_effect_is_no_dead_letter(shared: Shared) -> None:
    room = shared("rabbitmq")
    key = new_id()
    id = room.send("store_and_die_dead", key)
    said = eventually(
        lambda: [e for e in worker_of(room).lines("worker_lost") if e["task_id"] == id]
    )
    assert said[0]["msg"].startswith("store_and_die_dead is done: ")
    assert room.ended(room.send("add", 1, 2)).result == 3
    assert room.ended(id).state is State.SUCCESS
    assert rows(room, key) == 1
    assert not [letter for letter in room.dead() if letter.id == id]


def test_what_a_failing_task_wrote_is_rolled_back(shared: Shared) -> None:
    room = shared("rabbitmq")
    key = new_id()
    id = room.send("store_and_fail", key)
    assert room.ended(id).state is State.FAILURE
    assert rows(room, key) == 0


def test_what_was_imported_is_not_looked_through_before_each_fork(shared: Shared) -> None:
    room = shared("rabbitmq")
    assert room.ended(room.send("frozen")).result > 10_000


def test_each_process_has_an_engine_of_its_own(shared: Shared) -> None:
    room = shared("rabbitmq")
    worker = worker_of(room)
    pids = set()
    for id in [room.send("engine_id") for _ in range(10)]:
        status = room.ended(id)
        assert status.state is State.SUCCESS
        pids.add(status.result[0])
    assert pids <= set(worker.children)
    assert worker.process.pid not in pids


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def rows(room: CeleryRoom, key: str) -> int:
    with room.service.resource(Database).session(read_only=True) as session:
        found = session.execute(text("select count(*) from effects where key = :key"), {"key": key})
        return int(found.scalar_one())
