"""A task that no queue takes is refused, however it is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import chain, group

from mainstay.errors import NoRoute
from mainstay.tasks.celery import send
from mainstay.tasks.status import State
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
