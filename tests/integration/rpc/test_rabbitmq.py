"""What only a real RabbitMQ shows: alarms, queues declared by somebody else, its own counts."""

from __future__ import annotations

from typing import Any

import pytest

from mainstay.config import Settings
from mainstay.errors import NoRoute, Overloaded
from mainstay.resources.amqp import connect
from mainstay.rpc import Calls, Server
from mainstay.service import Service
from mainstay.testing.servers import RabbitMQ
from mainstay.testing.wait import eventually


class Echo:
    def call(self, data: Any) -> Any:
        return data


def test_during_an_alarm_calls_are_refused_at_once(rabbitmq: RabbitMQ, rabbitmq_url: str) -> None:
    settings = Settings(env="test", rabbitmq_url=rabbitmq_url)
    calls = Service(settings).hold(Calls())
    with Server(settings, queue="q", target=Echo()) as served:
        assert served.is_ready(10.0)
        assert calls.call("q", 1) == 1
        rabbitmq.ctl("set_disk_free_limit", "100000GB")
        try:

            def is_refused() -> bool:
                try:
                    calls.call("q", 2, timeout_seconds=0.5)
                except Overloaded as error:
                    return "alarm" in str(error)
                return False

            eventually(is_refused)
        finally:
            rabbitmq.ctl("set_disk_free_limit", "10MB")
        eventually(lambda: calls.call("q", 3, timeout_seconds=1.0) == 3)
    calls.close()


def test_a_queue_that_exists_otherwise_is_said_and_not_served(
    rabbitmq_url: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with connect(rabbitmq_url) as connection:
        connection.channel().queue_declare("q", durable=True, auto_delete=False)
    settings = Settings(env="test", rabbitmq_url=rabbitmq_url)
    service = Service(settings)
    calls = Service(settings).hold(Calls())
    said = b""

    def is_said() -> bool:
        nonlocal said
        said += capfdbinary.readouterr().out
        return b"exists with other arguments: delete it" in said

    with Server(service, queue="q", target=Echo()) as served:
        eventually(is_said)
        assert not served.is_ready()
        assert service.health.health().checks["calls:q"]["status"] == "unhealthy"
        with pytest.raises(NoRoute):
            calls.call("q", 1)
    calls.close()


def test_a_queue_that_is_deleted_is_declared_again(rabbitmq_url: str) -> None:
    settings = Settings(env="test", rabbitmq_url=rabbitmq_url)
    calls = Service(settings).hold(Calls())
    with Server(settings, queue="q", target=Echo()) as served:
        assert served.is_ready(10.0)
        assert calls.call("q", 1) == 1
        with connect(rabbitmq_url) as connection:
            connection.channel().queue_delete("q")
        eventually(lambda: calls.call("q", 2, timeout_seconds=1.0) == 2)
    calls.close()
