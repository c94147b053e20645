"""The same service twice: on embedded servers, and on RabbitMQ and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mainstay.processes.ports import steady_port
from mainstay.testing.servers import PostgreSQL, RabbitMQ
from tests.services.contracts.platform import Receiver, write_project
from tests.services.platform import Platform, on_embedded, on_servers


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
    ports = [steady_port() for _ in range(2)]
    write_project(folder, ports)
    with on_embedded(folder, ports, APP_NOTIFY_URL=receiver.url) as platform:
        yield platform


@pytest.fixture(scope="session")
def real_platform(
    tmp_path_factory: pytest.TempPathFactory,
    receiver: Receiver,
    rabbitmq: RabbitMQ,
    postgres: PostgreSQL,
) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("real")
    ports = [steady_port() for _ in range(2)]
    write_project(folder, ports)
    rabbitmq.create_vhost("contracts")
    with on_servers(
        folder,
        ports,
        "contracts",
        APP_NOTIFY_URL=receiver.url,
        DATABASE_URL=postgres.create_database("contracts"),
        CELERY_BROKER_URL=rabbitmq.url_of("contracts"),
    ) as platform:
        yield platform
