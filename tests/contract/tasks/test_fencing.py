"""A task that commits more than once has each of its effects once, whoever else is at it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from mainstay.config.urls import sync_url
from mainstay.context import new_id
from mainstay.resources.sqlalchemy import Database
from mainstay.tasks.celery.profiles import transport_of
from mainstay.tasks.status import State
from mainstay.testing import RabbitMQ, eventually
from tests.contract.tasks.rooms import CeleryRoom, Worker
from tests.contract.tasks.sample import gate_of

EARLY, LATE = "while the other is at it", "when the other is done"


@pytest.fixture
def fenced_room(request: pytest.FixtureRequest, room_on: Callable[[str], CeleryRoom]) -> CeleryRoom:
    return room_on(request.param)


@pytest.fixture
def cut(request: pytest.FixtureRequest) -> Callable[[CeleryRoom], None]:
    """Have the broker take a stopped worker for dead; on Redis its lease does so."""

    def do(room: CeleryRoom) -> None:
        if transport_of(room.url) == "amqp":
            server: RabbitMQ = request.getfixturevalue("rabbitmq")
            server.ctl("close_all_connections", "--global", "test")

    return do


@pytest.mark.parametrize(
    ("fenced_room", "wakes"),
    [
        ("redis on sqlite", EARLY),
        ("redis on sqlite", LATE),
        ("redis on postgresql", EARLY),
        ("rabbitmq on postgresql", EARLY),
        ("rabbitmq on postgresql", LATE),
    ],
    indirect=["fenced_room"],
)
def test_an_orphan_that_wakes_up_after_its_redelivery_has_no_effect(
    fenced_room: CeleryRoom, cut: Callable[[CeleryRoom], None], wakes: str
) -> None:
    room, key = fenced_room, new_id()
    with room.worker(SAMPLE_LEASE_SECONDS="2") as orphan:
        orphan.ready()
        id = room.send("store_in_steps", key)
        eventually(lambda: deliveries(room, key) == 1)
        family = [*orphan.children, orphan.process.pid]
        eventually(lambda: are_stopped(family, room, id))
        cut(room)
        with room.worker() as heir:
            heir.ready()
            eventually(lambda: deliveries(room, key) == 2)
            if wakes == LATE:
                open_gate(room, key, 2)
                assert room.ended(id).state is State.SUCCESS
            open_gate(room, key, 1)
            # The child first: the main process ends what it works on when it sees that the broker
            # has let go of it.
            tell(family, signal.SIGCONT, until=lambda: taken_over(orphan, id))
            if wakes == EARLY:
                status = room.status(id)
                assert status is not None
                assert status.state is State.STARTED
                assert rows(room, f"{key} second") == 0
                open_gate(room, key, 2)
            status = room.ended(id)
            assert (status.state, status.result, status.error) == (State.SUCCESS, key, None)
            assert heir.terminate() == 0
        assert orphan.is_running
    assert deliveries(room, key) == 2
    assert (rows(room, f"{key} first"), rows(room, f"{key} second")) == (1, 1)
    assert room.dead() == []


def tell(
    family: list[int], number: signal.Signals, *, until: Callable[[], bool] | None = None
) -> None:
    """Send a signal to a worker's children, wait, and send it to the worker."""
    *children, parent = family
    for child in children:
        os.kill(child, number)
    if until is not None:
        eventually(until)
    os.kill(parent, number)


def are_stopped(family: list[int], room: CeleryRoom, id: str) -> bool:
    """Stop a worker in a moment in which it has locked nothing that another worker needs."""
    tell(family, signal.SIGSTOP)
    eventually(lambda: all(state(pid) == "T" for pid in family))
    if is_free(room, id):
        return True
    tell(family, signal.SIGCONT)
    return False


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def is_free(room: CeleryRoom, id: str) -> bool:
    """Can another process write down what becomes of a task?"""
    engine = create_engine(sync_url(str(room.settings.database_url)))
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql("pragma busy_timeout = 0")
                connection.exec_driver_sql("begin immediate")
            else:
                row = text(
                    "select 1 from mainstay.task_status where task_id = :id for update nowait"
                )
                connection.execute(row, {"id": id})
    except OperationalError:
        return False
    finally:
        engine.dispose()
    return True


def taken_over(worker: Worker, id: str) -> bool:
    return [(line["outcome"], line["reason"]) for line in worker.tries(id)] == [
        ("cancelled", "taken over by a newer delivery")
    ]


def deliveries(room: CeleryRoom, key: str) -> int:
    return room.effects().count(f"store_in_steps {key}")


def open_gate(room: CeleryRoom, key: str, delivery: int) -> None:
    gate_of(room.effects_file, key, delivery).touch()


def rows(room: CeleryRoom, key: str) -> int:
    with room.service.resource(Database).session(read_only=True) as session:
        found = session.execute(text("select count(*) from effects where key = :key"), {"key": key})
        return int(found.scalar_one())
