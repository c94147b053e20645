"""What tests of a service need around it: real servers, faults on the wire, a place for telemetry.

`servers` starts private RabbitMQ, Redis and PostgreSQL; `plugin` gives them to pytest as fixtures
(``pytest_plugins = ["mainstay.testing.plugin"]``); `wait` polls for what must become true;
`proxy` stands between a client and a server and misbehaves; `otlp` receives telemetry.
"""

from __future__ import annotations

from mainstay.testing.proxy import FaultProxy
from mainstay.testing.servers import PostgreSQL, RabbitMQ, Redis, Server, ServerFailed
from mainstay.testing.wait import async_eventually, eventually

__all__ = [
    "FaultProxy",
    "PostgreSQL",
    "RabbitMQ",
    "Redis",
    "Server",
    "ServerFailed",
    "async_eventually",
    "eventually",
]
