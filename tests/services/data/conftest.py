"""The same service twice: on embedded servers, and on RabbitMQ, Redis and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mainstay.processes.ports import steady_port
from mainstay.testing.otlp import OtlpReceiver
from mainstay.testing.servers import PostgreSQL, RabbitMQ, Redis
from tests.services.data.platform import write_project
from tests.services.platform import Platform, on_embedded, on_servers


@pytest.fixture(scope="session")
def telemetry() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def embedded_platform(
    tmp_path_factory: pytest.TempPathFactory, telemetry: OtlpReceiver
) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("embedded")
    ports = [steady_port() for _ in range(3)]
    write_project(folder, ports)
    with on_embedded(folder, ports, **_telling(telemetry)) as platform:
        yield platform


@pytest.fixture(scope="session")
def real_platform(
    tmp_path_factory: pytest.TempPathFactory,
    telemetry: OtlpReceiver,
    rabbitmq: RabbitMQ,
    redis_server: Redis,
    postgres: PostgreSQL,
) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("real")
    ports = [steady_port() for _ in range(3)]
    write_project(folder, ports)
    rabbitmq.create_vhost("platform")
    with on_servers(
        folder,
        ports,
        "data",
        **_telling(telemetry),
        DATABASE_URL=postgres.create_database("platform"),
        REDIS_URL=redis_server.url,
        RABBITMQ_URL=rabbitmq.url_of("platform"),
        RABBITMQ_MANAGEMENT_URL=rabbitmq.management_url,
        CELERY_BROKER_URL=rabbitmq.url_of("platform"),
        CELERY_RESULT_BACKEND=redis_server.url,
    ) as platform:
        yield platform


def _telling(telemetry: OtlpReceiver) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": telemetry.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
