"""Put the ASGI middleware around each application of a test run; a plugin of pytest.

`TestClient` is given the wrapped application, whatever kind it is. An application that a test calls
itself is wrapped where it is a `Starlette`. Within another one it is left alone, as in a service.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from mainstay.config import Settings
from mainstay.http import asgi
from mainstay.http.fastapi import routes
from mainstay.limits import RateLimits
from mainstay.service import Service

_made: Counter[str] = Counter()
_bare_init = TestClient.__init__
_bare_call = Starlette.__call__


@pytest.fixture(scope="session", autouse=True)
def _applications(record_testsuite_property: Callable[[str, object], None]) -> Iterator[None]:
    yield
    record_testsuite_property("applications", _made["applications"])


def _wrapped(app: Any) -> asgi.Edge:
    _made["applications"] += 1
    service = Service(Settings(env="test", service_name="foreign"))
    rules = asgi.Rules(
        own={**routes.machines(service), **routes.keys(service)},
        quiet=routes.QUIET_PATHS,
        limits=RateLimits(None),
    )
    return asgi.Edge(app, service, rules)


def _init(self: TestClient, *args: Any, **options: Any) -> None:
    _bare_init(self, *args, **options)
    # The client has made an ASGI 3 application of an older kind by now.
    self.app = self._transport.app = _wrapped(self.app)


async def _call(self: Starlette, scope: Any, receive: Any, send: Any) -> None:
    if asgi.ENTRY in scope or scope["type"] not in ("http", "websocket"):
        await _bare_call(self, scope, receive, send)
        return
    await _wrapped(partial(_bare_call, self))(_complete(scope), receive, send)


def _complete(scope: dict[str, Any]) -> dict[str, Any]:
    """Add what every server adds, and a test that makes the scope itself may leave out."""
    headers = list(scope.get("headers", []))
    if not any(name.lower() == b"host" for name, _ in headers):
        headers.insert(0, (b"host", b"testserver"))
    return {"query_string": b"", **scope, "headers": headers}


TestClient.__init__ = _init  # type: ignore[method-assign]
Starlette.__call__ = _call  # type: ignore[method-assign]
