"""A task comes to its queue, or is refused, however it is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import chain, group

from mainstay.errors import NoRoute
from mainstay.tasks.celery import send
from mainstay.tasks.status import State
from mainstay.testing import eventually
from tests.contract.tasks import sample
from tests.contract.tasks.rooms import CeleryRoom

WAYS: dict[str, Callable[[Any], Any]] = {
    "delay": lambda task: task.delay(1, 2),
    "apply_async": lambda task: task.apply_async((1, 2)),
    "mandatory is None": lambda task: task.apply_async((1, 2), mandatory=None),
    "send": lambda task: send(task, 1, 2),
    "signature": lambda task: task.s(1, 2).delay(),
    "chain": lambda task: chain(task.s(1, 2), task.s(3)).delay(),
    "group": lambda task: group(task.s(1, 2), task.s(3, 4)).delay(),
    "send_task": lambda task: task.app.send_task(task.name, (1, 2)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_task_whose_queue_is_gone_is_refused(rabbitmq_room: CeleryRoom, way: str) -> None:
    room = rabbitmq_room.another()
    task = room.app.task(sample.add, name="add")
    task.delay(1, 2)  # which declares the queue; once for each connection of a process
    with room.app.connection_for_write() as connection:
        connection.default_channel.queue_delete(room.queue)
    with pytest.raises(NoRoute, match="no queue takes it"):
        WAYS[way](task)
    room.close()


def test_a_task_that_is_due_later_comes_to_its_queue_whenever_that_was_made(
    rabbitmq_room: CeleryRoom,
) -> None:
    room = rabbitmq_room.another()
    task = room.app.task(sample.add, name="add")
    new = f"{room.queue}_new"
    task.apply_async((1, 2), countdown=1)
    task.apply_async((1, 2), countdown=1, queue=new)
    for queue in (room.queue, new):
        await_one(room, queue)
        with room.app.connection_for_write() as connection:
            connection.default_channel.queue_delete(queue)
        task.apply_async((1, 2), countdown=1, queue=queue)
        await_one(room, queue)
    room.close()


def await_one(room: CeleryRoom, queue: str) -> None:
    """Wait until there is one task in *queue*."""

    def is_one() -> bool:
        with room.app.connection_for_read() as connection:
            try:
                declared = connection.default_channel.queue_declare(queue, passive=True)
            except connection.channel_errors:  # not there yet
                return False
        return int(declared.message_count) == 1

    eventually(is_one)


def test_a_task_is_tried_again_in_the_queue_that_it_was_sent_to(own_room: CeleryRoom) -> None:
    queue = f"{own_room.queue}_gpu"
    with own_room.worker("--queues", queue) as worker:
        worker.ready()
        id = own_room.send("flaky", "k", 3, queue=queue)
        status = own_room.ended(id)
    assert (status.state, status.attempts, status.queue) == (State.SUCCESS, 3, queue)


@pytest.mark.parametrize("route", [{"routing_key": "zz"}, {"exchange": "amq.topic"}])
def test_a_task_whose_route_leads_nowhere_is_refused(
    rabbitmq_room: CeleryRoom, route: dict[str, str]
) -> None:
    room = rabbitmq_room.another()
    task = room.app.task(sample.add, name="add")
    with pytest.raises(NoRoute, match="no queue takes it"):
        task.apply_async((1, 2), task_id=f"nowhere-{room.queue}", **route)
    status = room.status(f"nowhere-{room.queue}")
    assert status is not None
    assert status.state is State.FAILURE
    room.close()
