"""A task is done by a worker of its queue, and a queue is what its model says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mainstay.context import new_id
from mainstay.resources.amqp.deadletters import AmqpDeadLetters
from mainstay.tasks.celery import App, create_celery_app
from mainstay.tasks.status import State
from mainstay.testing import eventually
from tests.contract.tasks import sample
from tests.contract.tasks.rooms import CeleryRoom
from tests.waiting import PATIENCE_SECONDS


@pytest.fixture
def priorities(rabbitmq_room: CeleryRoom) -> Iterator[tuple[CeleryRoom, App]]:
    """A room whose queue has priorities, and an application that knows it."""
    room = rabbitmq_room.another()
    app = create_celery_app(room.settings, queues=[sample.urgent(room.queue)])
    yield room, app
    app.service.stop()
    room.close()


def test_a_worker_does_the_tasks_of_the_queues_it_is_given(own_room: CeleryRoom) -> None:
    room = own_room
    cpu, gpu = f"{room.queue}_cpu", f"{room.queue}_gpu"
    room.app.conf.task_routes = {"listed": {"queue": cpu}}
    routed = room.send("listed", 1)
    wins = room.send("listed", 2, queue=gpu)
    default = room.send("add", 1, 2)
    for id, queue in ((routed, cpu), (wins, gpu), (default, room.queue)):
        status = room.status(id)
        assert status is not None
        assert (status.state, status.queue) == (State.WAITING, queue)
    with room.worker("--queues", cpu) as worker:
        worker.ready()
        assert room.ended(routed).state is State.SUCCESS
        assert worker.terminate() == 0
    assert room.effects() == ["listed [1]"]
    with room.worker("--queues", f"{gpu},{room.queue}") as worker:
        worker.ready()
        assert room.ended(wins).queue == gpu
        assert room.ended(default).state is State.SUCCESS


def test_what_is_urgent_is_done_first(priorities: tuple[CeleryRoom, App]) -> None:
    room, app = priorities
    ids = [app.send_task("listed", (priority,), priority=priority).id for priority in (1, 5, 9, 3)]
    with room.worker(SAMPLE_URGENT=room.queue) as worker:
        worker.ready()
        for id in ids:
            assert room.ended(id).state is State.SUCCESS
    assert room.effects() == [f"listed [{priority}]" for priority in (9, 5, 3, 1)]


def test_a_classic_queue_stops_what_kills_its_workers_too(
    priorities: tuple[CeleryRoom, App],
) -> None:
    room, app = priorities
    key = new_id()
    with room.worker(SAMPLE_URGENT=room.queue) as worker:
        worker.ready()
        poison = app.send_task("kill_always", (key,)).id
        sound = [app.send_task("listed", (n,)).id for n in range(5)]
        assert room.ended(poison).state is State.FAILURE
        for id in sound:
            assert room.ended(id).state is State.SUCCESS
        letters = AmqpDeadLetters(room.url, known=(room.queue,))
        (letter,) = eventually(lambda: list(letters.letters(room.queue)))
        assert (letter.id, letter.reason) == (poison, "delivery-limit")
    assert room.effects().count(f"kill_always {key}") == 5


def test_a_queue_that_is_declared_otherwise_is_exit_code_78(rabbitmq_room: CeleryRoom) -> None:
    room = rabbitmq_room.another()
    with room.app.connection_for_write() as connection:
        connection.default_channel.queue_declare(room.queue, durable=True, auto_delete=False)
    with room.worker() as worker:
        assert worker.process.wait(PATIENCE_SECONDS) == 78
        said = worker.log.read_text()
    assert room.queue in said
    assert "declare it in the code as it is there" in said
    room.close()


def test_what_the_broker_would_not_heed_is_exit_code_78(redis_room: CeleryRoom) -> None:
    room = redis_room.another()
    with room.worker(SAMPLE_URGENT=room.queue, APP_ENV="prod") as worker:
        assert worker.process.wait(PATIENCE_SECONDS) == 78
        assert "max_priority is for RabbitMQ" in worker.log.read_text()
    room.close()
