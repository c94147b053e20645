"""Which servers may a pytest test ask for by name?

Name the plugin in ``conftest.py``: ``pytest_plugins = ["mainstay.testing.plugin"]``.

======================= ======== =============================================================
fixture                 scope    what the test gets
======================= ======== =============================================================
`rabbitmq`              session  a private RabbitMQ, to kill, pause and ask
`rabbitmq_vhost`        test     the name of an empty virtual host on it
`rabbitmq_url`          test     the URL of that virtual host
`redis_server`          session  a private Redis, to kill, pause and ask
`redis_url`             test     its URL; it is empty
`postgres`              session  a private PostgreSQL, to kill, pause and ask
`database_url`          test     the URL of an empty database on it
`embedded_valkey`       session  the Valkey that `mainstay dev` starts
`embedded_valkey_url`   test     its URL; it is empty
`embedded_postgres`     session  the PostgreSQL that `mainstay dev` starts
`embedded_database_url` test     the URL of an empty database on it
`otlp`                  test     a receiver of telemetry
======================= ======== =============================================================

A server that is not installed skips the test at home and fails it where ``CI`` is set. A server
that a test has left stopped or paused is up again for the next one.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from mainstay.errors import Misconfigured
from mainstay.extras import require

require("pytest", extra="testing")

import pytest  # noqa: E402 - after the question above

from mainstay.processes.leash import SERVERS, Leash  # noqa: E402 - likewise
from mainstay.testing.servers import PostgreSQL, RabbitMQ, Redis, Server  # noqa: E402 - likewise
from mainstay.testing.servers.redis import send  # noqa: E402 - likewise

if TYPE_CHECKING:
    from mainstay.embedded import Postgres, Valkey
    from mainstay.testing.otlp import OtlpReceiver

__all__ = [
    "database_url",
    "embedded_database_url",
    "embedded_postgres",
    "embedded_valkey",
    "embedded_valkey_url",
    "leave_out",
    "otlp",
    "postgres",
    "rabbitmq",
    "rabbitmq_url",
    "rabbitmq_vhost",
    "redis_server",
    "redis_url",
]

S = TypeVar("S", bound=Server)
E = TypeVar("E", "Postgres", "Valkey")


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    yield from _private(RabbitMQ())


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    yield from _private(Redis())


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    yield from _private(PostgreSQL())


@pytest.fixture
def rabbitmq_vhost(rabbitmq: RabbitMQ) -> Iterator[str]:
    name = f"test-{secrets.token_hex(4)}"
    rabbitmq.start().create_vhost(name)
    yield name
    if rabbitmq.is_running():
        rabbitmq.resume()
        rabbitmq.delete_vhost(name)


@pytest.fixture
def rabbitmq_url(rabbitmq: RabbitMQ, rabbitmq_vhost: str) -> str:
    return rabbitmq.url_of(rabbitmq_vhost)


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    redis_server.start().clear()
    return redis_server.url


@pytest.fixture
def database_url(postgres: PostgreSQL) -> Iterator[str]:
    name = f"test_{secrets.token_hex(4)}"
    yield postgres.start().create_database(name)
    if postgres.is_running():
        postgres.resume()
        postgres.drop_database(name)


@pytest.fixture(scope="session")
def embedded_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    from mainstay.embedded import Valkey

    yield from _embedded(Valkey, tmp_path_factory.mktemp("valkey"))


@pytest.fixture
def embedded_valkey_url(embedded_valkey: Valkey) -> str:
    send(embedded_valkey.port, embedded_valkey.password, "FLUSHALL")
    return embedded_valkey.url()


@pytest.fixture(scope="session")
def embedded_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    from mainstay.embedded import Postgres

    yield from _embedded(Postgres, tmp_path_factory.mktemp("postgres"))


@pytest.fixture
def embedded_database_url(embedded_postgres: Postgres) -> str:
    name = f"test_{secrets.token_hex(4)}"
    embedded_postgres.create_database(name)
    return embedded_postgres.url(name)


@pytest.fixture
def otlp() -> Iterator[OtlpReceiver]:
    from mainstay.testing.otlp import OtlpReceiver

    with OtlpReceiver() as receiver:
        yield receiver


def _private(server: S) -> Iterator[S]:
    if server.program() is None:
        leave_out(f"{server.package} is not installed: apt-get install {server.package}")
    with server:
        yield server


def _embedded(kind: type[E], folder: Path) -> Iterator[E]:
    leash = Leash()
    server = kind(folder, hold=lambda group: leash.hold(group, SERVERS), release=leash.release)
    try:
        try:
            server.start()
        except Misconfigured as error:
            leave_out(str(error))
        yield server
    finally:
        server.stop()
        leash.close()


def leave_out(reason: str) -> NoReturn:
    """Skip the test and say why; where ``CI`` is set nothing may be wanting, so fail it."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(f"{reason} (needed because CI is set)", pytrace=False)
    pytest.skip(reason)
