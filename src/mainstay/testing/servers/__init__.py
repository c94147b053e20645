"""Real servers for tests: private, on loopback and free ports, gone when the test is over.

Each is the program that the system has installed, started with a data folder and a password of
its own, so it meets no other server of the machine. Take it as a context manager::

    with Redis() as server:
        client = redis.Redis.from_url(server.url)
        server.kill()  # as kill -9 does; start() brings it back with its data
"""

from __future__ import annotations

from mainstay.testing.servers.postgres import PostgreSQL
from mainstay.testing.servers.rabbitmq import RabbitMQ
from mainstay.testing.servers.redis import Redis
from mainstay.testing.servers.server import Server, ServerFailed

__all__ = ["PostgreSQL", "RabbitMQ", "Redis", "Server", "ServerFailed"]
