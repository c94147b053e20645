"""Rooms for the contract: in memory, on embedded Valkey, on Redis and on RabbitMQ."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mainstay.embedded import Postgres
from mainstay.embedded.valkey import Valkey
from mainstay.errors import Misconfigured
from mainstay.resources.sqlalchemy import Database
from mainstay.service import Service
from mainstay.tasks.celery import App, create_celery_app
from mainstay.testing import PostgreSQL, RabbitMQ, Redis
from mainstay.testing.plugin import leave_out
from tests.contract.tasks import sample
from tests.contract.tasks.rooms import (
    ON_DATABASES,
    CeleryRoom,
    MemoryRoom,
    Room,
    prepare_database,
)

BROKERS = ("valkey", "redis", "rabbitmq")
RESULTS = ("none", "redis", "postgresql")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture(scope="session")
def valkey_room(folder: Path) -> Iterator[CeleryRoom]:
    server = Valkey(folder / "valkey")
    try:
        server.start()
    except Misconfigured as error:
        leave_out(str(error))
    room = CeleryRoom(server.url(), folder)
    yield room
    room.close()
    server.stop()


@pytest.fixture(scope="session")
def redis_room(folder: Path, redis_server: Redis) -> Iterator[CeleryRoom]:
    room = CeleryRoom(redis_server.start().url, folder)
    yield room
    room.close()


@pytest.fixture(scope="session")
def rabbitmq_room(folder: Path, rabbitmq: RabbitMQ) -> Iterator[CeleryRoom]:
    rabbitmq.start().create_vhost("tasks")
    database_url = prepare_database(f"sqlite:///{folder}/tasks.db")
    room = CeleryRoom(rabbitmq.url_of("tasks"), folder, database_url)
    yield room
    room.close()
    rabbitmq.delete_vhost("tasks")


@pytest.fixture(scope="session")
def shared(request: pytest.FixtureRequest) -> Iterator[Callable[[str], CeleryRoom]]:
    """Rooms with a worker that all tests share: none of them may end it."""
    rooms: dict[str, CeleryRoom] = {}
    with ExitStack() as stack:

        def room_of(name: str) -> CeleryRoom:
            if name not in rooms:
                server: CeleryRoom = request.getfixturevalue(f"{name}_room")
                room = rooms[name] = server.another()
                stack.callback(room.close)
                room.shared = stack.enter_context(room.worker(concurrency=2)).ready()
            return rooms[name]

        yield room_of


@pytest.fixture(params=["memory", *BROKERS])
def room(
    request: pytest.FixtureRequest,
    shared: Callable[[str], CeleryRoom],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Room]:
    """Any room of the contract."""
    if request.param == "memory":
        effects = tmp_path / "effects"
        effects.touch()
        monkeypatch.setenv(sample.EFFECTS, str(effects))
        yield MemoryRoom([0.0])
        return
    room = shared(request.param)
    yield room
    _assert_alive(room)


@pytest.fixture(params=BROKERS)
def working_room(
    request: pytest.FixtureRequest, shared: Callable[[str], CeleryRoom]
) -> Iterator[CeleryRoom]:
    """A room with a real broker and the shared worker."""
    room = shared(request.param)
    yield room
    _assert_alive(room)


@pytest.fixture(params=["redis", "rabbitmq"])
def own_room(request: pytest.FixtureRequest) -> Iterator[CeleryRoom]:
    """A room with a real broker and a queue that no worker knows yet."""
    server: CeleryRoom = request.getfixturevalue(f"{request.param}_room")
    room = server.another()
    yield room
    room.close()


@pytest.fixture(scope="session")
def shared_on(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], CeleryRoom]]:
    """Rooms such as ``redis on sqlite`` with a worker that all tests share: none may end it."""
    rooms: dict[str, CeleryRoom] = {}
    with ExitStack() as stack:

        def made(kind: str) -> CeleryRoom:
            if kind not in rooms:
                room = rooms[kind] = _room_on(request, kind, tmp_path_factory.mktemp("room"))
                stack.callback(room.close)
                room.shared = stack.enter_context(room.worker(concurrency=4)).ready()
            return rooms[kind]

        yield made


@pytest.fixture(params=ON_DATABASES)
def database_room(
    request: pytest.FixtureRequest, shared_on: Callable[[str], CeleryRoom]
) -> Iterator[CeleryRoom]:
    """A room on a broker and a database, as empty as a new one, and its shared worker."""
    room = shared_on(request.param)
    room.clear()
    yield room
    _assert_alive(room)


COMBINATIONS = [f"{where}, {kept}" for where in ON_DATABASES for kept in RESULTS]


@pytest.fixture(scope="session")
def shared_with_results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], tuple[CeleryRoom, App]]]:
    """Rooms such as ``redis on sqlite, postgresql``, where the last keeps results, each with an
    application that reads those and a worker that all tests share: none may end it.
    """
    rooms: dict[str, tuple[CeleryRoom, App]] = {}
    with ExitStack() as stack:

        def made(kind: str) -> tuple[CeleryRoom, App]:
            if kind not in rooms:
                where, _comma, results = kind.partition(", ")
                room = _room_on(request, where, tmp_path_factory.mktemp("room"))
                stack.callback(room.close)
                url = results_url(request, results)
                worker = room.worker(
                    concurrency=2, **({"CELERY_RESULT_BACKEND": url} if url else {})
                )
                room.shared = stack.enter_context(worker).ready()
                settings = room.settings.model_copy(update={"celery_result_backend": url})
                app = create_celery_app(Service(settings, Database()))
                stack.callback(app.service.stop)
                if results == "redis":
                    # A result that is collected later would open its connection again.
                    app.backend.on_result_fulfilled = lambda _result: None
                    stack.callback(app.backend.result_consumer.stop)
                rooms[kind] = room, app
            return rooms[kind]

        yield made


def results_url(request: pytest.FixtureRequest, kind: str) -> str | None:
    """Return the URL of an empty result backend; ``None`` for "none"."""
    if kind == "none":
        return None
    if kind == "postgresql":
        return database_url_of(request, "postgresql", Path())
    server: Redis = request.getfixturevalue("redis_server")
    return server.start().url


@pytest.fixture(params=[each for each in COMBINATIONS if not each.endswith("none")])
def results_room(
    request: pytest.FixtureRequest,
    shared_with_results: Callable[[str], tuple[CeleryRoom, App]],
) -> Iterator[tuple[CeleryRoom, App]]:
    """A room on a broker and a database, whose results are kept, and an application for it."""
    room, app = shared_with_results(request.param)
    yield room, app
    _assert_alive(room)


@pytest.fixture
def room_on(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[str], CeleryRoom]]:
    """Make rooms with a queue and a database of their own, such as ``redis on sqlite``."""
    with ExitStack() as stack:

        def made(kind: str) -> CeleryRoom:
            room = _room_on(request, kind, tmp_path)
            stack.callback(room.close)
            return room

        yield made


def _room_on(request: pytest.FixtureRequest, kind: str, folder: Path) -> CeleryRoom:
    broker, _on, database = kind.partition(" on ")
    server: CeleryRoom = request.getfixturevalue(f"{broker}_room")
    url = prepare_database(database_url_of(request, database, folder))
    return CeleryRoom(server.url, folder, url)


def database_url_of(request: pytest.FixtureRequest, kind: str, folder: Path) -> str:
    """Return the URL of an empty database that is there until the session ends."""
    name = f"tasks_{secrets.token_hex(4)}"
    if kind == "postgresql":
        real: PostgreSQL = request.getfixturevalue("postgres")
        return real.start().create_database(name)
    if kind == "embedded":
        embedded: Postgres = request.getfixturevalue("embedded_postgres")
        embedded.create_database(name)
        return embedded.url(name)
    return f"sqlite:///{folder}/{name}.db"


def _assert_alive(room: CeleryRoom) -> None:
    assert room.shared is not None
    assert room.shared.is_running, room.shared.log.read_text()[-4000:]
