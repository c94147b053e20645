"""A few hundred malformed messages a room. `python -m tests.chaos.malformed` sends more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mainstay.resources.sqlalchemy.migrate import upgrade
from tests.chaos import mutations
from tests.chaos.malformed import ROOMS, Room, bombard


@pytest.fixture(params=sorted(ROOMS))
def room(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Iterator[Room]:
    kind = ROOMS[request.param]
    url = request.getfixturevalue("rabbitmq_url" if kind.is_on_rabbitmq else "redis_url")
    upgrade(database_url, say=lambda _line: None)
    made = kind(tmp_path, url, database_url)
    yield made
    made.close()


def test_no_message_stops_a_worker_jams_it_or_vanishes(room: Room, seed: int) -> None:
    verdict = bombard(room, seed=seed, count=300)
    print(verdict)  # noqa: T201 - seed and figures are what one needs when it fails
    assert verdict.is_good, str(verdict)


def test_a_seed_makes_the_same_messages_each_time() -> None:
    for number in range(50):
        seed, unit = f"7-{number}", mutations.unit_of(7, number)
        for is_for_amqp in (True, False):
            task = mutations.task_message(seed, unit, for_amqp=is_for_amqp)
            assert task == mutations.task_message(seed, unit, for_amqp=is_for_amqp)
            call = mutations.call_message(seed, unit, for_amqp=is_for_amqp)
            assert call == mutations.call_message(seed, unit, for_amqp=is_for_amqp)
        assert mutations.item(seed, unit, "q") == mutations.item(seed, unit, "q")
        assert mutations.control_message(seed) == mutations.control_message(seed)
