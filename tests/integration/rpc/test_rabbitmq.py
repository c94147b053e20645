"""What only a real RabbitMQ shows: alarms, queues declared by somebody else, its own counts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import amqp
import pytest

from mainstay.errors import NoRoute, Overloaded, RemoteFailure, Unavailable, Unconfirmed
from mainstay.resources.amqp import AmqpDeadLetters, connect
from mainstay.rpc import Calls, Server
from mainstay.service import Service
from mainstay.testing.plugin import leave_out
from mainstay.testing.ports import steady_port
from mainstay.testing.servers import RabbitMQ
from mainstay.testing.wait import eventually
from tests.integration.rpc.certificates import certificate
from tests.integration.rpc.settings import patient
from tests.waiting import PATIENCE_SECONDS


class Echo:
    def call(self, data: Any) -> Any:
        return data


def test_calls_go_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if RabbitMQ.program() is None:
        leave_out("RabbitMQ is not installed: apt-get install rabbitmq-server")
    public, private = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(public))
    port = steady_port()
    config = {
        "listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": str(public),
        "ssl_options.certfile": str(public),
        "ssl_options.keyfile": str(private),
    }
    with RabbitMQ(config=config) as broker:
        url = broker.url.replace("amqp://", "amqps://").replace(f":{broker.port}/", f":{port}/")
        settings = patient(rabbitmq_url=url)
        calls = Service(settings).hold(Calls())
        with Server(settings, queue="q", target=Echo()) as served:
            assert served.is_ready(PATIENCE_SECONDS)
            # Larger than what a TLS record, or one read, holds.
            big = "x" * 900_000
            assert [calls.call("q", data) for data in (1, big, 2)] == [1, big, 2]
            futures = [calls.submit("q", n) for n in range(200)]
            assert [future.result() for future in futures] == list(range(200))
        calls.close()


def test_during_an_alarm_calls_are_refused_at_once(rabbitmq: RabbitMQ, rabbitmq_url: str) -> None:
    settings = patient(rabbitmq_url=rabbitmq_url)
    calls = Service(settings).hold(Calls())
    with Server(settings, queue="q", target=Echo()) as served:
        assert served.is_ready(PATIENCE_SECONDS)
        assert calls.call("q", 1) == 1
        rabbitmq.ctl("set_disk_free_limit", "100000GB")
        try:
            # The first one learns of it, and does not wait until its deadline.
            with pytest.raises((Unconfirmed, Overloaded), match="alarm"):
                calls.call("q", 2, timeout_seconds=PATIENCE_SECONDS)
            with pytest.raises(Unavailable, match="alarm"):
                calls.ping()

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
    settings = patient(rabbitmq_url=rabbitmq_url)
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
    settings = patient(rabbitmq_url=rabbitmq_url)
    calls = Service(settings).hold(Calls())
    with Server(settings, queue="q", target=Echo()) as served:
        assert served.is_ready(PATIENCE_SECONDS)
        assert calls.call("q", 1) == 1
        with connect(rabbitmq_url) as connection:
            connection.channel().queue_delete("q")
        eventually(lambda: calls.call("q", 2, timeout_seconds=1.0) == 2)
    calls.close()


def test_a_server_that_is_ready_takes_calls(rabbitmq_url: str) -> None:
    settings = patient(rabbitmq_url=rabbitmq_url)
    with connect(rabbitmq_url) as connection:
        channel = connection.channel()
        for queue in ("one", "two", "three"):
            with Server(settings, queue=queue, target=Echo()) as served:
                assert served.is_ready(PATIENCE_SECONDS)
                assert channel.queue_declare(queue, passive=True).consumer_count == 1


def are_stored(store: AmqpDeadLetters, names: set[str]) -> bool:
    return {letter.id for letter in store.letters("q")} == names


class Fails:
    def call(self, _: Any) -> Any:
        raise ZeroDivisionError


def test_dead_letters_are_stored_though_their_queue_was_deleted(rabbitmq_url: str) -> None:
    settings = patient(rabbitmq_url=rabbitmq_url)
    calls, store = Service(settings).hold(Calls()), AmqpDeadLetters(rabbitmq_url)
    with Server(settings, queue="q", target=Fails(), concurrency=8) as served:
        assert served.is_ready(PATIENCE_SECONDS)
        for names in ({f"first-{n}" for n in range(20)}, {f"second-{n}" for n in range(20)}):
            with connect(rabbitmq_url) as connection:
                connection.channel().queue_delete("q_dlq")
            futures = [calls.submit("q", id=name, timeout_seconds=60.0) for name in names]
            for future in futures:
                assert isinstance(future.exception(PATIENCE_SECONDS), RemoteFailure)
            eventually(partial(are_stored, store, names))
        line = b'mainstay_dead_lettered_total{queue="q"} 40.0'
        eventually(lambda: line in served.service.metrics.exposition()[0])
    with connect(rabbitmq_url) as connection:
        assert connection.channel().queue_declare("q", passive=True).message_count == 0
    calls.close()


def test_dead_letters_may_be_looked_at_without_end(rabbitmq: RabbitMQ, rabbitmq_url: str) -> None:
    with Server(
        patient(rabbitmq_url=rabbitmq_url),
        queue="q",
        target=Echo(),
    ) as served:
        assert served.is_ready(PATIENCE_SECONDS)
        vhost = rabbitmq_url.rsplit("/", 1)[1]
        # RabbitMQ 4 drops a message that was delivered 20 times, where nothing else is said.
        arguments = rabbitmq.manage("GET", f"/queues/{vhost}/q_dlq")["arguments"]
    assert arguments["x-delivery-limit"] >= 1_000_000


@pytest.mark.parametrize("victim", ["victim", "q", "q_dlq"])
def test_an_answer_goes_to_who_waits_and_into_no_queue_that_a_call_names(
    rabbitmq_url: str, victim: str
) -> None:
    settings = patient(rabbitmq_url=rabbitmq_url)
    calls = Service(settings).hold(Calls())
    with Server(settings, queue="q", target=Echo()) as served:
        assert served.is_ready(PATIENCE_SECONDS)
        with connect(rabbitmq_url) as connection:
            channel = connection.channel()
            channel.queue_declare("victim", durable=True, auto_delete=False)
            forged = amqp.Message(b'{"data": 1}', type="call", message_id="f", reply_to=victim)
            channel.basic_publish(forged, "", "q")
            # One after the other: the answer to the forged one has been sent before.
            assert calls.call("q", 2, timeout_seconds=PATIENCE_SECONDS) == 2
            left = {name: channel.queue_declare(name, passive=True) for name in ("victim", "q")}
            assert [found.message_count for found in left.values()] == [0, 0]
        assert list(AmqpDeadLetters(rabbitmq_url).letters("q")) == []
    calls.close()
