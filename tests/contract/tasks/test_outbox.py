"""A task that is sent with a session leaves with its commit, whatever dies then."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from celery import chain
from sqlalchemy import text, update

from mainstay import context
from mainstay.context import new_id
from mainstay.errors import Invalid, TooLarge
from mainstay.resources.sqlalchemy import Database, tables
from mainstay.resources.sqlalchemy.deadletters import DatabaseDeadLetters
from mainstay.resources.sqlalchemy.outbox import Outbox
from mainstay.tasks.status import State
from mainstay.testing import eventually
from tests.contract.tasks import sample
from tests.contract.tasks.rooms import ON_DATABASES, ROOT, CeleryRoom, worker_of
from tests.contract.tasks.test_processes import proxied, through
from tests.contract.tasks.test_routes import await_one
from tests.waiting import PATIENCE_SECONDS


@pytest.fixture
def room(database_room: CeleryRoom) -> CeleryRoom:
    """A room on a broker and a database, with the worker that the tests share."""
    return database_room


@pytest.fixture(params=ON_DATABASES)
def own_room(request: pytest.FixtureRequest, room_on: Callable[[str], CeleryRoom]) -> CeleryRoom:
    """A room with a queue and a database of its own, and no worker yet."""
    return room_on(request.param)


def database_of(room: CeleryRoom) -> Database:
    return room.service.resource(Database)


def outbox_of(room: CeleryRoom) -> Outbox:
    return room.service.resource(Outbox)


def send(room: CeleryRoom, name: str, *args: Any, **options: Any) -> str:
    """Send a task with a commit."""
    with database_of(room).session() as session:
        return room.send(name, *args, session=session, **options)


def effects_of(room: CeleryRoom, key: str) -> int:
    with database_of(room).session(read_only=True) as session:
        count = text("select count(*) from effects where key = :key")
        return int(session.execute(count, {"key": key}).scalar_one())


def state_of(room: CeleryRoom, id: str) -> State | None:
    status = room.status(id)
    return None if status is None else status.state


def test_a_task_leaves_with_the_commit_and_is_done(room: CeleryRoom) -> None:
    worker = worker_of(room)
    with database_of(room).session() as session:
        id = room.send("add", 40, 2, session=session)
        assert waiting_in(room) == 0  # not visible before the commit
    status = room.ended(id)
    assert (status.state, status.result, status.queue) == (State.SUCCESS, 42, room.queue)
    eventually(lambda: worker.get("/ready")[0] == 200)
    eventually(lambda: worker.metric("mainstay_outbox_messages", state="ready") == 0)


def waiting_in(room: CeleryRoom) -> int:
    found = outbox_of(room).backlog("task")
    return found.ready + found.scheduled


def test_a_task_of_a_rollback_was_never_sent(room: CeleryRoom) -> None:
    with database_of(room).session() as session:
        id = room.send("add", 1, 2, session=session)
        session.rollback()
    assert state_of(room, id) is None
    assert waiting_in(room) == 0


def test_it_travels_as_a_task_that_is_sent_at_once(room: CeleryRoom) -> None:
    sender = context.Context.new()
    with context.use(sender):
        id = send(room, "tell_context")
    told = room.ended(id).result
    assert told["correlation_id"] == sender.correlation_id
    assert told["trace_id"] == sender.trace_id


def test_a_chain_leaves_with_the_commit_too(room: CeleryRoom) -> None:
    first, then = (room.app.signature("add", args=args) for args in ((1, 2), (3,)))
    with database_of(room).session() as session:
        last = chain(first, then).apply_async(session=session)
    assert room.ended(last.id).result == 6


def test_it_waits_while_the_broker_is_away_and_then_is_done(own_room: CeleryRoom) -> None:
    async def scenario() -> None:
        async with proxied(own_room) as proxy:
            away = through(own_room, proxy)
            with away.worker() as worker:
                await asyncio.to_thread(worker.ready)
                proxy.refuse()
                proxy.reset()
                ids = [await asyncio.to_thread(send, away, "add", n, 0) for n in range(20)]
                await asyncio.to_thread(eventually, lambda: worker.lines("relay_held_up"))
                assert {state_of(away, id) for id in ids} == {State.WAITING}
                assert worker.get("/healthz")[0] == 200
                proxy.heal()
                for n, id in enumerate(ids):
                    assert (await asyncio.to_thread(away.ended, id)).result == n
                await asyncio.to_thread(eventually, lambda: worker.lines("relay_goes_on"))
            assert sorted(away.effects()) == sorted(f"add {n} 0" for n in range(20))
            away.close()

    asyncio.run(scenario())


def test_what_is_due_later_than_a_broker_should_keep_it_waits_in_the_database(
    room: CeleryRoom,
) -> None:
    id = room.send("add", 1, 2, countdown=3600)
    assert state_of(room, id) is State.WAITING
    assert outbox_of(room).backlog("task").scheduled == 1
    soon = send(room, "add", 3, 4, countdown=1)
    assert room.ended(soon).result == 7
    assert state_of(room, id) is State.WAITING


def test_without_a_database_what_is_due_so_late_is_refused(redis_room: CeleryRoom) -> None:
    with pytest.raises(Invalid, match="Database"):
        redis_room.another().send("add", 1, 2, countdown=3600)


def test_what_no_worker_would_take_is_refused_before_it_is_written(room: CeleryRoom) -> None:
    with database_of(room).session() as session:
        with pytest.raises(TooLarge):
            room.send("add", "x" * 2_000_000, 1, session=session)
        assert outbox_of(room).backlog("task").ready == 0


@pytest.mark.parametrize("options", [{}, {"countdown": 1}])
def test_a_queue_that_no_worker_has_declared_is_made_for_a_task_that_leaves_with_a_commit(
    room: CeleryRoom, options: dict[str, Any]
) -> None:
    elsewhere = f"{room.queue}_elsewhere_{len(options)}"
    id = send(room, "add", 1, 2, queue=elsewhere, **options)
    await_one(room, elsewhere)
    status = room.status(id)
    assert status is not None
    assert (status.state, status.queue) == (State.WAITING, elsewhere)


@pytest.mark.parametrize("database_room", ["rabbitmq on postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("way", "reason"),
    [
        # The first exchange has no queue, the second does not exist.
        ({"exchange": "amq.topic", "routing_key": "nobody"}, "refused:NoRoute"),
        ({"exchange": "no-such-exchange", "routing_key": "nobody"}, "refused:NoRoute"),
        # Its exchange is the default queue's, which has no binding for it.
        ({"routing_key": "nobody"}, "refused:NoRoute"),
    ],
)
def test_a_task_that_nobody_takes_is_a_dead_letter_and_the_others_are_done(
    room: CeleryRoom, way: dict[str, Any], reason: str
) -> None:
    worker, metric = worker_of(room), "mainstay_dead_lettered_total"
    dead = worker.metric(metric)
    before = [send(room, "add", n, 0) for n in range(3)]
    broken = send(room, "add", 1, 1, **way)
    after = [send(room, "add", n, 0) for n in range(3)]
    for id in (*before, *after):
        assert room.ended(id).state is State.SUCCESS
    status = room.ended(broken)
    assert status.state is State.FAILURE
    assert status.error is not None
    eventually(lambda: worker.metric(metric) == dead + 1)
    letters = DatabaseDeadLetters(database_of(room))
    (letter,) = [letter for queue in letters.queues() for letter in letters.letters(queue)]
    assert (letter.id, letter.reason) == (broken, reason)


@pytest.mark.parametrize("column", ["route", "headers"])
def test_a_message_that_cannot_be_read_is_a_dead_letter(room: CeleryRoom, column: str) -> None:
    database = database_of(room)
    table = tables.table("outbox", database.engine.dialect.name)
    with database.session() as session:
        broken = room.send("add", 1, 1, session=session)
        session.execute(update(table).values({column: [1]}))
    sound = send(room, "add", 2, 2)
    assert room.ended(sound).state is State.SUCCESS
    assert room.ended(broken).state is State.FAILURE


SENDER = """
import sys
from mainstay import failpoints
from tests.contract.tasks import sample
failpoints.arm(sys.argv[1])
database = sample.service.resource(sample.Database)
key, id = sys.argv[2:]
with database.session() as session:
    sample.celery_app.send_task("store_once", (key,), task_id=id, session=session)
print("came to its end")
"""


@pytest.mark.parametrize(
    ("point", "is_sent"), [("outbox.before_commit", False), ("outbox.after_commit", True)]
)
def test_a_sender_that_dies_has_sent_what_it_has_committed(
    room: CeleryRoom, point: str, is_sent: bool
) -> None:
    key, id = new_id(), new_id()
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SENDER, f"{point}:kill", key, id],
        cwd=ROOT,
        env={
            **os.environ,
            "APP_ENV": "test",
            "CELERY_BROKER_URL": room.url,
            "CELERY_DEFAULT_QUEUE": room.queue,
            "DATABASE_URL": database_of(room).url,
            sample.EFFECTS: str(room.effects_file),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (-9, ""), ended.stderr
    if is_sent:
        assert room.ended(id).state is State.SUCCESS
    else:
        room.ended(send(room, "add", 1, 1))
        assert state_of(room, id) is None
    assert effects_of(room, key) == int(is_sent)


@pytest.mark.parametrize("point", ["relay.after_claim", "relay.after_publish", "relay.before_mark"])
def test_a_relay_that_dies_loses_nothing_and_what_it_doubles_has_one_effect(
    own_room: CeleryRoom, point: str
) -> None:
    keys = [new_id() for _ in range(10)]
    ids = [send(own_room, "store_once", key) for key in keys]
    with own_room.worker(MAINSTAY_FAILPOINT=f"{point}:kill@1") as worker:
        assert worker.process.wait(PATIENCE_SECONDS) == -9, worker.log.read_text()[-4000:]
    with own_room.worker(concurrency=2) as worker:
        worker.ready()
        for id in ids:
            assert own_room.ended(id).state is State.SUCCESS
        eventually(lambda: waiting_in(own_room) == 0)
    assert [effects_of(own_room, key) for key in keys] == [1] * len(keys)


def test_a_service_without_a_worker_relays_in_a_process_of_its_own(own_room: CeleryRoom) -> None:
    with own_room.relay() as relay:
        relay.ready()
        ids = [send(own_room, "add", n, 0) for n in range(50)]
        eventually(lambda: waiting_in(own_room) == 0)
        eventually(lambda: relay.get("/ready")[0] == relay.get("/healthz")[0] == 200)
        eventually(lambda: relay.metric("app_last_iteration_timestamp_seconds") > 0)
        eventually(lambda: relay.metric("mainstay_outbox_messages", state="ready") == 0)
        assert relay.terminate() == 0
    with own_room.worker(concurrency=2) as worker:
        worker.ready()
        for id in ids:
            own_room.ended(id)
    assert sorted(own_room.effects()) == sorted(f"add {n} 0" for n in range(50))


def test_a_relay_without_anything_to_relay_is_exit_code_78() -> None:
    start, target = "mainstay.processes.start", "mainstay:Settings"
    ended = subprocess.run(
        [sys.executable, "-m", start, target, "--", "mainstay.processes.relay", target],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ended.returncode == 78
    assert "name the service" in ended.stderr
