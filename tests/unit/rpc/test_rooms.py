"""The broker's URL says which room; nothing else is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mainstay.config import Settings
from mainstay.errors import DeadlineExceeded, Invalid, Misconfigured
from mainstay.rpc import Calls, Server, rooms
from mainstay.service import Service
from tests.waiting import PATIENCE_SECONDS


class Echo:
    def call(self, data: object) -> object:
        return data


def test_calls_in_memory_need_no_extra() -> None:
    program = """
import sys
for technology in ("amqp", "hiredis", "kombu", "redis"):
    sys.modules[technology] = None
from mainstay.config import Settings
from mainstay.rpc import Calls, Server
from mainstay.service import Service
class Echo:
    def call(self, data):
        return data
service = Service(Settings(env="test", rabbitmq_url="memory://"))
calls = service.hold(Calls())
with Server(service, queue="q", target=Echo()) as server:
    assert server.is_ready(5.0)
    assert calls.call("q", 5) == 5
calls.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_rabbitmq_comes_before_redis_and_what_is_chosen_before_both() -> None:
    both = Settings(env="test", rabbitmq_url="amqp://a:b@rabbit", redis_url="redis://redis")
    assert rooms.broker_url(both, None) == both.rabbitmq_url
    assert rooms.broker_url(both, "memory://") == "memory://"
    redis = Settings(env="test", redis_url="redis://redis")
    assert rooms.broker_url(redis, None) == redis.redis_url


def test_without_a_broker_the_message_names_the_variables() -> None:
    settings = Settings(env="test")
    calls = Service(settings).hold(Calls())
    assert not calls.is_named
    with pytest.raises(Misconfigured, match=r"RABBITMQ_URL.*REDIS_URL"):
        calls.call("q")
    with pytest.raises(Misconfigured, match="RABBITMQ_URL"):
        Server(settings, queue="q", target=Echo())


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(Misconfigured, match="'kafka'"):
        rooms.ping("kafka://host")


@pytest.mark.parametrize("options", [{"queue": ""}, {"concurrency": 0}, {"waiting_limit": 0}])
def test_a_server_without_a_queue_or_a_hand_is_refused(options: dict[str, object]) -> None:
    settings = Settings(env="test", rabbitmq_url="memory://")
    with pytest.raises(Misconfigured, match="limits of 1 or more"):
        Server(settings, **({"queue": "q", "target": Echo()} | options))  # type: ignore[arg-type] # as given


def test_what_is_wrong_before_sending_is_in_the_future() -> None:
    calls = Service(Settings(env="test", rabbitmq_url="memory://submit")).hold(Calls())
    assert isinstance(calls.submit("q", object()).exception(PATIENCE_SECONDS), Invalid)
    late = calls.submit("q", timeout_seconds=0.0)
    assert isinstance(late.exception(PATIENCE_SECONDS), DeadlineExceeded)
    calls.close()


def test_the_depth_of_a_broker_that_cannot_be_asked_is_unknown() -> None:
    unknown = {"queue": None, "dead_letters": None}
    for url in ("redis://127.0.0.1:1/0", "amqp://127.0.0.1:1/"):
        assert rooms.depth(url, "q", management_url="http://127.0.0.1:1") == unknown
    assert rooms.depth("amqp://127.0.0.1:1/", "q", management_url=None) == unknown
