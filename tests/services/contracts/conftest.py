"""The same service twice: on embedded servers, and on RabbitMQ and PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import httpx
import pytest

from mainstay.auth import Tokens
from mainstay.config import Settings
from mainstay.processes.ports import free_port
from mainstay.testing.servers import PostgreSQL, RabbitMQ
from tests.services.contracts.platform import Platform, Receiver, environment, write_project


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="session")
def embedded_platform(
    tmp_path_factory: pytest.TempPathFactory, receiver: Receiver
) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("embedded")
    ports = [free_port() for _ in range(2)]
    write_project(folder, ports)
    env = environment(APP_NOTIFY_URL=receiver.url)
    platform = Platform(folder, ["dev", "--no-reload"], env, ports)
    yield platform.start()
    assert platform.stop() == 0


@pytest.fixture(scope="session")
def real_platform(
    tmp_path_factory: pytest.TempPathFactory,
    receiver: Receiver,
    rabbitmq: RabbitMQ,
    postgres: PostgreSQL,
) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("real")
    ports = [free_port() for _ in range(2)]
    write_project(folder, ports)
    secret = secrets.token_hex(32)
    rabbitmq.create_vhost("contracts")
    env = environment(
        APP_NOTIFY_URL=receiver.url,
        DATABASE_URL=postgres.create_database("contracts"),
        CELERY_BROKER_URL=rabbitmq.url_of("contracts"),
        JWT_SECRET_KEY=secret,
        APP_HOST="127.0.0.1",
        APP_RATE_LIMIT="none",
        APP_DRAIN_DELAY_SECONDS="0",
    )
    settings = Settings(env="test", service_name="contracts", jwt_secret_key=secret)
    token = Tokens(settings).issue("ann", life_seconds=80_000)
    platform = Platform(folder, ["run"], env, ports, token=token)
    migrated = platform.run("db", "upgrade")
    assert migrated.returncode == 0, migrated.stderr
    yield platform.start()
    assert platform.stop() == 0


@pytest.fixture(params=["embedded", "real"])
def platform(request: pytest.FixtureRequest) -> Platform:
    found: Platform = request.getfixturevalue(f"{request.param}_platform")
    return found


@pytest.fixture
def client(platform: Platform) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=platform.url, headers=platform.headers, timeout=30) as client:
        yield client
