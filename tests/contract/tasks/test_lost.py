"""What a broker has lost is found, reported and sent again; what is only slow is left alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from mainstay.context import new_id
from mainstay.resources.sqlalchemy import schedule, tables
from mainstay.tasks.celery.eviction import eviction_of
from mainstay.tasks.status import State
from mainstay.testing import RabbitMQ, Redis, eventually
from tests.contract.tasks.conftest import database_url_of
from tests.contract.tasks.rooms import CeleryRoom, Worker, prepare_database
from tests.contract.tasks.test_outbox import database_of, effects_of, outbox_of, send, state_of
from tests.contract.tasks.test_processes import proxied, through
from tests.waiting import PATIENCE_SECONDS

LOST_AFTER_SECONDS = 4.0


class Case:
    """A room on a broker that may lose what it has."""

    def __init__(self, room: CeleryRoom, lose: Callable[[], object]) -> None:
        self.room = room
        self.lose = lose


@pytest.fixture(scope="module")
def forgetful() -> Iterator[Redis]:
    """A Redis of this module's own: what others have there is not to be lost."""
    server = Redis()
    yield server.start()
    server.close()


@pytest.fixture
def vhost(rabbitmq: RabbitMQ) -> Iterator[str]:
    name = f"lost-{new_id()}"
    rabbitmq.start().create_vhost(name)
    yield name
    rabbitmq.delete_vhost(name)


WAYS = ("flushed", "queue deleted", "virtual host recreated")


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    way = str(request.param)
    if way == "flushed":
        server: Redis = request.getfixturevalue("forgetful")
        room = CeleryRoom(server.url, tmp_path, database_url(request, "sqlite", tmp_path))
        yield Case(room, server.clear)
    else:
        rabbitmq: RabbitMQ = request.getfixturevalue("rabbitmq")
        name: str = request.getfixturevalue("vhost")
        url = database_url(request, "postgresql", tmp_path)
        room = CeleryRoom(rabbitmq.url_of(name), tmp_path, url)

        def lose() -> None:
            if way == "queue deleted":
                rabbitmq.manage("DELETE", f"/queues/{name}/{room.queue}")
            else:
                rabbitmq.delete_vhost(name)
                rabbitmq.create_vhost(name)

        yield Case(room, lose)
    room.close()


def database_url(request: pytest.FixtureRequest, kind: str, folder: Path) -> str:
    return prepare_database(database_url_of(request, kind, folder))


def settings() -> dict[str, Any]:
    return {"APP_LOST_AFTER_SECONDS": str(LOST_AFTER_SECONDS)}


def passed_over(room: CeleryRoom) -> None:
    """Wait until what is accepted by now could be lost, and was looked at twice since then."""
    database = database_of(room)
    with database.autocommit() as connection:
        now = schedule.now(connection)
    since = now + timedelta(seconds=1.5 * LOST_AFTER_SECONDS)
    turns = set()

    def is_so() -> bool:
        table = tables.table("schedule", database.engine.dialect.name)
        with database.autocommit(read_only=True) as connection:
            query = select(table.c.ticked_at).where(table.c.name == "mainstay.reconciler")
            turned_at = connection.execute(query).scalar_one_or_none()
        if turned_at is not None and turned_at > since:
            turns.add(turned_at)
        return len(turns) > 2

    eventually(is_so, timeout_seconds=90)


def lost_of(worker: Worker) -> list[str]:
    return sorted(line["task_id"] for line in worker.lines("lost"))


@pytest.mark.parametrize("case", WAYS, indirect=True)
def test_what_the_broker_lost_is_found_and_done_once_when_it_is_sent_again(case: Case) -> None:
    room, busy = case.room, new_id()
    keys = [new_id() for _ in range(6)]
    with room.worker(concurrency=1, **settings()) as worker:
        worker.ready()
        held = room.send("hold", busy)
        eventually(lambda: f"hold {busy}" in room.effects())
        ids = [room.send("store_once", key) for key in keys[:3]]
        ids += [send(room, "store_once", key) for key in keys[3:]]
        eventually(lambda: not outbox_of(room).backlog("task").ready)
        case.lose()
        room.release(busy)
        eventually(lambda: {state_of(room, id) for id in ids} == {State.LOST})
        eventually(lambda: set(ids) <= set(lost_of(worker)))
        eventually(lambda: worker.metric("mainstay_lost") >= len(ids))
        report = json.loads(worker.get("/health")[1])
        assert report["status"] == "degraded"
        assert "mainstay tasks retry --all-lost" in report["checks"]["lost"]["detail"]

        assert room.app.lost is not None
        again = [message.id for found in room.app.lost.retry_all() for message in found.messages]
        assert set(ids) <= set(again)
        for id in ids:
            assert room.ended(id).state is State.SUCCESS

        def is_held_one_done() -> bool:
            # With its queue its message is gone: where the worker gives it up, it is lost later.
            assert room.app.lost is not None
            list(room.app.lost.retry_all())
            return state_of(room, held) is State.SUCCESS

        eventually(is_held_one_done)
        eventually(lambda: worker.metric("mainstay_lost") == 0)
        eventually(lambda: json.loads(worker.get("/health")[1])["status"] == "healthy")
    assert [effects_of(room, key) for key in keys] == [1] * len(keys)


@pytest.mark.parametrize("case", ["flushed", "queue deleted"], indirect=True)
def test_a_task_that_was_lost_with_its_worker_is_found(case: Case) -> None:
    room, key = case.room, new_id()
    with room.worker(**settings()) as first:
        first.ready()
        id = room.send("hold", key)
        eventually(lambda: state_of(room, id) is State.STARTED)
        first.kill()
    case.lose()
    with room.worker(**settings()) as second:
        second.ready()
        eventually(lambda: state_of(room, id) is State.LOST)
        assert room.app.lost is not None
        room.app.lost.retry([id])
        room.release(key)
        assert room.ended(id).result == "released"


@pytest.mark.parametrize("case", ["flushed", "queue deleted"], indirect=True)
def test_what_is_slow_or_waits_behind_it_is_not_lost(case: Case) -> None:
    room = case.room
    slow = [new_id() for _ in range(2)]
    with (
        room.worker(concurrency=1, **settings()) as first,
        room.worker(concurrency=1, **settings()) as second,
    ):
        first.ready()
        second.ready()
        held = [room.send("hold", key) for key in slow]
        eventually(lambda: {f"hold {key}" for key in slow} <= set(room.effects()))
        behind = [room.send("add", number, 0) for number in range(3)]
        behind += [send(room, "add", number, 1) for number in range(3)]
        passed_over(room)
        assert {state_of(room, id) for id in held} == {State.STARTED}
        assert {state_of(room, id) for id in behind} == {State.WAITING}
        # One of them is at work on, while the other takes the markers.
        room.release(slow[0])
        for id in (held[0], *behind):
            assert room.ended(id).state is State.SUCCESS
        passed_over(room)
        assert state_of(room, held[1]) is State.STARTED
        room.release(slow[1])
        assert room.ended(held[1]).state is State.SUCCESS
        assert lost_of(first) == lost_of(second) == []
        assert room.dead() == []


@pytest.mark.parametrize("case", ["flushed", "queue deleted"], indirect=True)
def test_what_is_due_later_is_not_lost(case: Case) -> None:
    room = case.room
    delay = int(4 * LOST_AFTER_SECONDS)
    with room.worker(concurrency=1, **settings()) as worker:
        worker.ready()
        soon = [room.send("add", 1, 2, countdown=delay), send(room, "add", 3, 4, countdown=delay)]
        later = room.send("add", 5, 6, countdown=3600)
        key = new_id()
        again = room.send("retry_first", key, delay)
        eventually(lambda: f"retry_first {key}" in room.effects())
        passed_over(room)
        assert {state_of(room, id) for id in (*soon, later)} == {State.WAITING}
        assert state_of(room, again) is not State.LOST
        assert {room.ended(id).result for id in soon} == {3, 7}
        assert room.ended(again).result == "done"
        assert state_of(room, later) is State.WAITING
        assert lost_of(worker) == []
        assert room.dead() == []


@pytest.mark.parametrize("case", ["flushed", "queue deleted"], indirect=True)
def test_the_task_of_a_killed_worker_that_waits_for_another_one_is_not_lost(case: Case) -> None:
    room, key, other = case.room, new_id(), new_id()
    with room.worker(concurrency=1, **settings()) as first:
        first.ready()
        id = room.send("hold", key)
        eventually(lambda: f"hold {key}" in room.effects())
        with room.worker(concurrency=1, **settings()) as second:
            second.ready()
            busy = room.send("hold", other)
            eventually(lambda: f"hold {other}" in room.effects())
            first.kill()
            passed_over(room)
            assert state_of(room, id) is State.STARTED
            room.release(other)
            room.release(key)
            assert {room.ended(one).result for one in (id, busy)} == {"released"}
            assert lost_of(first) == lost_of(second) == []


@pytest.mark.parametrize("case", ["flushed"], indirect=True)
def test_a_row_that_a_process_of_an_older_version_wrote_is_looked_at_too(case: Case) -> None:
    room = case.room
    id = room.send("add", 1, 2)
    with database_of(room).session() as session:
        status = tables.table("task_status", session.get_bind().dialect.name)
        session.execute(status.update().values(accounted_at=None, message=None))
    case.lose()
    with room.worker(**settings()) as worker:
        worker.ready()
        eventually(lambda: state_of(room, id) is State.LOST)


@pytest.mark.parametrize("case", ["queue deleted"], indirect=True)
def test_what_rabbitmq_has_made_a_dead_letter_is_dead_and_not_lost(
    case: Case, rabbitmq: RabbitMQ, vhost: str
) -> None:
    room = case.room
    policy = {"pattern": f"^{room.queue}$", "definition": {"message-ttl": 1}, "apply-to": "queues"}
    rabbitmq.manage("PUT", f"/policies/{vhost}/short-lived", policy)
    id = room.send("add", 1, 2)
    eventually(room.dead)
    rabbitmq.manage("DELETE", f"/policies/{vhost}/short-lived")
    with room.worker(**settings()) as worker:
        worker.ready()
        status = room.ended(id)
        assert status.state is State.FAILURE
        assert status.error is not None
        assert status.error["type"] == "expired"
        assert lost_of(worker) == []


@pytest.fixture
def evicting(tmp_path: Path) -> Iterator[CeleryRoom]:
    """A room on a Redis that makes room for new tasks by dropping others."""
    server = Redis(config={"maxmemory": "50mb", "maxmemory-policy": "allkeys-lru"})
    room = CeleryRoom(server.start().url, tmp_path)
    yield room
    room.close()
    server.close()


def test_a_worker_refuses_to_start_on_a_redis_that_evicts(evicting: CeleryRoom) -> None:
    with evicting.worker(APP_ENV="prod") as worker:
        assert worker.process.wait(PATIENCE_SECONDS) == 78
        said = worker.log.read_text()
    assert "allkeys-lru" in said
    assert "CONFIG SET maxmemory-policy noeviction" in said


def test_in_dev_it_warns_of_a_redis_that_evicts(evicting: CeleryRoom) -> None:
    with evicting.worker(APP_ENV="dev") as worker:
        worker.ready()
        (warning,) = worker.lines("refusal")
        assert "allkeys-lru" in warning["msg"]


def test_a_worker_leaves_a_redis_that_evicts_when_it_first_reaches_it(
    evicting: CeleryRoom,
) -> None:
    async def scenario() -> None:
        async with proxied(evicting) as proxy:
            proxy.refuse()
            with through(evicting, proxy).worker(APP_ENV="prod") as worker:
                await asyncio.to_thread(eventually, lambda: "cannot be reached" in said(worker))
                proxy.heal()
                code = await asyncio.to_thread(worker.process.wait, PATIENCE_SECONDS)
                assert code == 78
                assert "allkeys-lru" in said(worker)

    def said(worker: Worker) -> str:
        return worker.log.read_text()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "config",
    [
        {"maxmemory": "50mb", "maxmemory-policy": "noeviction"},
        {"maxmemory": "0", "maxmemory-policy": "allkeys-lru"},
        {"rename-command": 'INFO ""'},
    ],
    ids=["nothing is evicted", "there is no limit", "it does not say"],
)
def test_a_redis_that_keeps_its_tasks_is_taken(config: dict[str, str]) -> None:
    server = Redis(config=config)
    try:
        assert eviction_of(server.start().url) is None
    finally:
        server.close()
