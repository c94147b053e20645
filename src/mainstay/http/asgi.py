"""Lead every request of an ASGI application through the stations: one pure ASGI middleware.

It knows no framework. It wraps the application's own `__call__`, so it stands outside of whatever
the framework and its author put in between: every answer, a 500 included, carries the correlation
id, is counted under its route's template, and is one line in the log. Nothing is buffered unless
a keyed request asks for it; event streams and WebSockets pass as they come.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mainstay.errors import Overloaded
from mainstay.http import exchange, rules
from mainstay.http.deadlines import Deadlines
from mainstay.http.entry import HttpEntry, SocketEntry
from mainstay.http.routes import path_below
from mainstay.http.rules import Places
from mainstay.http.wire import ASGIApp, Receive, Scope, Send
from mainstay.pipeline import adrive, stations

if TYPE_CHECKING:
    from mainstay.service import Service

__all__ = ["ENTRY", "Edge", "Rules"]

ENTRY = "mainstay.entry"
"""The key of the scope under which everything inside finds the :class:`HttpEntry`."""


@dataclass(frozen=True, slots=True)
class Rules(rules.Rules):
    """What the edge of one ASGI application lets pass, and how.

    Args:
        socket_limit: WebSockets that are open at a time, for they live long; beyond, 503.
        root_path: The path that the application is served below, where its server does not say so.
        middleware: For CORS: put between the edge and the application, around refusals too, and
            left to answer preflight requests.
    """

    socket_limit: int = 1_000
    root_path: str = ""
    middleware: Callable[[ASGIApp], ASGIApp] | None = None

    @property
    def answers_other_sites(self) -> bool:
        return self.middleware is not None


class Edge(exchange.Edge):
    """Stands before an ASGI application and leads what comes through the stations.

    Args:
        app: The application; what it raises has been answered when it comes out here.
        service: Whose logs, metrics, traces, tokens and lifecycle are used.
        rules: What passes, and how.
    """

    rules: Rules

    def __init__(self, app: ASGIApp, service: Service, rules: Rules) -> None:
        super().__init__(service, rules, Places(rules.in_flight_limit, "requests in hand"))
        self.app = app
        self.sockets = Places(rules.socket_limit, "WebSockets open")
        self.deadlines = Deadlines()
        self.wrapped = rules.middleware(self._dispatch) if rules.middleware else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if self.rules.root_path:
            scope["root_path"] = self.rules.root_path
        # An application that is mounted in another one passes the stations once.
        if ENTRY in scope:
            path = path_below(scope.get("root_path", ""), scope["path"])
            await (self.own.get(path) or self.app)(scope, receive, send)
            return
        entry = (HttpEntry if kind == "http" else SocketEntry)(self, scope, receive, send)
        entry.scope[ENTRY] = entry
        try:
            await adrive(stations(entry, self.service))
        except Exception as error:  # noqa: BLE001 - the way in: what nobody answered ends here
            await entry.refuse(error)
        except BaseException as error:
            if entry.is_cancelled_by_shutdown:
                with suppress(Exception):
                    await entry.refuse(Overloaded("the service is shutting down: ask again"))
            raise error
        finally:
            entry.leave()
            del entry.scope[ENTRY]  # or each request would be a cycle, for the collector to find

    def note(self, level: str, method: str, route: str, status: int, seconds: float) -> None:
        self.line(level, method, route, status).write_later(seconds)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        entry: HttpEntry = scope[ENTRY]
        if entry.problem is not None:
            await entry.answer(entry.problem, send)
        else:
            await entry.app(scope, receive, send)
