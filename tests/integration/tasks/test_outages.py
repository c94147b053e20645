"""What becomes of tasks while the servers they need go away, and come back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import text

from mainstay.context import new_id
from mainstay.resources.sqlalchemy import Database
from mainstay.tasks.celery.profiles import transport_of
from mainstay.tasks.status import State
from mainstay.testing import PostgreSQL, RabbitMQ, Redis, eventually
from mainstay.testing.plugin import leave_out
from mainstay.testing.servers import Server
from mainstay.testing.servers.rabbitmq import NotThere
from tests.contract.tasks.rooms import CeleryRoom, prepare_database

BROKERS = ("rabbitmq", "redis")
COUNT = 60
# How long a consumer may hold a message, and how often that is looked at, in milliseconds.
IMPATIENT = "[{rabbit, [{consumer_timeout, 1000}, {channel_tick_interval, 500}]}].\n"


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    """Servers of this module's own: others share theirs, and these are killed."""
    kinds: dict[str, Server] = {"rabbitmq": RabbitMQ(), "redis": Redis(), "database": PostgreSQL()}
    with ExitStack() as stack:
        for server in kinds.values():
            if server.program() is None:
                leave_out(f"{server.package} is not installed: apt-get install {server.package}")
            stack.enter_context(server)
        yield kinds


@pytest.fixture(params=BROKERS)
def room(
    request: pytest.FixtureRequest, servers: dict[str, Server], tmp_path: Path
) -> Iterator[CeleryRoom]:
    for server in servers.values():
        server.start()
    database = servers["database"]
    assert isinstance(database, PostgreSQL)
    url = prepare_database(database.create_database(f"test_{new_id()}"))
    made = CeleryRoom(servers[request.param].url, tmp_path, url)
    yield made
    made.close()


@pytest.fixture
def broker(room: CeleryRoom, servers: dict[str, Server]) -> Server:
    return servers["rabbitmq" if transport_of(room.url) == "amqp" else "redis"]


@pytest.mark.parametrize("away", ["database", "broker"])
def test_a_server_that_is_away_for_a_while_costs_no_task(
    room: CeleryRoom, broker: Server, servers: dict[str, Server], away: str
) -> None:
    server = broker if away == "broker" else servers["database"]
    keys = [new_id() for _ in range(COUNT)]
    ids = [room.send("store_slowly", key) for key in keys]
    if isinstance(server, RabbitMQ):
        server.settle()
    with room.worker(concurrency=4) as worker:
        worker.ready()
        eventually(lambda: len(room.effects()) > 8)
        server.kill()
        eventually(lambda: worker.get("/ready")[0] == 503)
        server.start()
        states = [room.ended(id).state for id in ids]
        assert worker.is_running
    assert states == [State.SUCCESS] * COUNT
    assert [rows(room, key) for key in keys] == [1] * COUNT
    assert room.dead() == []


def test_what_runs_when_its_connection_breaks_has_one_effect(
    room: CeleryRoom, broker: Server
) -> None:
    keys = [new_id() for _ in range(COUNT)]
    ids = [room.send("store_slowly", key) for key in keys]
    with room.worker(concurrency=4) as worker:
        worker.ready()
        for begun in range(4, COUNT, 8):
            eventually(lambda begun=begun: len(room.effects()) >= begun)  # type: ignore[misc] # bound now
            disconnect(broker)
        states = [room.ended(id).state for id in ids]
        assert worker.is_running
    assert states == [State.SUCCESS] * COUNT
    assert [rows(room, key) for key in keys] == [1] * COUNT
    assert room.dead() == []


def test_a_task_that_outlasts_the_patience_of_rabbitmq_is_a_dead_letter(tmp_path: Path) -> None:
    # Nothing can tell a worker what the broker was set to; `TaskQueue` is told, and refuses.
    broker = RabbitMQ()
    (broker.folder / "advanced.config").write_text(IMPATIENT)
    with broker:
        room = CeleryRoom(broker.url, tmp_path)
        with room.worker(concurrency=2) as worker:
            worker.ready()
            id, key = new_id(), new_id()
            room.publish(json.dumps([[key], {}, {}]), {"task": "hold", "id": id})
            assert room.letter(id).reason == "delivery-limit"
            sound = new_id()
            room.publish(json.dumps([[sound], {}, {}]), {"task": "kill_first", "id": sound})
            eventually(lambda: room.effects().count(f"kill_first {sound}") >= 2)
            assert worker.is_running
        room.close()


def disconnect(broker: Server) -> None:
    if isinstance(broker, RabbitMQ):
        for connection in broker.manage("GET", "/connections"):
            with suppress(NotThere):  # it has ended by itself
                broker.manage("DELETE", f"/connections/{quote(connection['name'], safe='')}")
    elif isinstance(broker, Redis):
        broker.command("CLIENT KILL TYPE normal SKIPME yes")


def rows(room: CeleryRoom, key: str) -> int:
    with room.service.resource(Database).session(read_only=True) as session:
        found = session.execute(text("select count(*) from effects where key = :key"), {"key": key})
        return int(found.scalar_one())
