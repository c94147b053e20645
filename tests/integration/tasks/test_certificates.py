"""A broker whose certificate is not accepted: whoever cannot reach it hears why."""

from __future__ import annotations

from pathlib import Path

import pytest

from mainstay.config import Settings
from mainstay.errors import NotConnected, Unavailable
from mainstay.resources.amqp import AmqpDeadLetters, Publisher, connect
from mainstay.resources.redis import RedisDeadLetters
from mainstay.resources.redis.client import connect as connect_redis
from mainstay.rpc import Calls
from mainstay.service import Service
from mainstay.tasks.celery import create_celery_app
from mainstay.testing.wait import eventually
from tests.integration.rpc.certificates import certificate, greeted

# Whom a certificate is for, whether it is trusted, and why a client of 127.0.0.1 refuses it.
OTHER_NAME = ("127.0.0.2", True, "not valid for '127.0.0.1'")
STRANGER = ("127.0.0.1", False, "self-signed certificate")


@pytest.fixture(params=[OTHER_NAME, STRANGER])
def case(request: pytest.FixtureRequest) -> tuple[str, bool, str]:
    found: tuple[str, bool, str] = request.param
    return found


@pytest.fixture(params=["amqps", "rediss"])
def url_and_reason(
    request: pytest.FixtureRequest,
    case: tuple[str, bool, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> object:
    address, is_trusted, reason = case
    public, private = certificate(tmp_path, address)
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(public))
    with greeted(public, private) as port:
        yield f"{request.param}://u:p@127.0.0.1:{port}/", reason


def test_a_sender_of_tasks_hears_why_a_certificate_is_refused(
    url_and_reason: tuple[str, str],
) -> None:
    url, reason = url_and_reason
    app = create_celery_app(Settings(env="test", celery_broker_url=url))
    with pytest.raises(NotConnected, match=f"certificate is refused: .*{reason}"):
        app.send_task("bill", ignore_result=True)
    app.service.stop()


def test_a_caller_hears_why_a_certificate_is_refused(url_and_reason: tuple[str, str]) -> None:
    url, reason = url_and_reason
    calls = Service(Settings(env="test", rabbitmq_url=url)).hold(Calls())

    def is_told() -> bool:
        with pytest.raises(NotConnected) as refused:
            calls.call("q")
        return reason in str(refused.value)

    eventually(is_told)
    calls.close()


def test_who_looks_at_dead_letters_hears_why_a_certificate_is_refused(
    url_and_reason: tuple[str, str],
) -> None:
    url, reason = url_and_reason
    if url.startswith("amqps"):
        with pytest.raises(Unavailable, match=reason):
            AmqpDeadLetters(url, known=["work"]).queues()
        with pytest.raises(NotConnected, match=reason):
            Publisher(lambda: connect(url)).publish(b"{}", routing_key="work", properties={})
    else:
        with connect_redis(url) as client, pytest.raises(Unavailable, match=reason):
            RedisDeadLetters(client, {}).queues()
