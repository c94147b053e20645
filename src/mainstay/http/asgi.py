"""Lead every request of an ASGI application through the stations: one pure ASGI middleware.

It knows no framework. It wraps the application's own `__call__`, so it stands outside of whatever
the framework and its author put in between: every answer, a 500 included, carries the correlation
id, is counted under its route's template, and is one line in the log. Nothing is buffered unless
a keyed request asks for it; event streams and WebSockets pass as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mainstay.errors import Overloaded
from mainstay.http.deadlines import Deadlines
from mainstay.http.entry import HttpEntry, SocketEntry
from mainstay.http.wire import ASGIApp, Receive, Scope, Send
from mainstay.pipeline import adrive, stations

if TYPE_CHECKING:
    from mainstay.idempotency import Store
    from mainstay.limits import RateLimits, Rule
    from mainstay.service import Service

__all__ = ["ENTRY", "Edge", "Places", "Rules"]

ENTRY = "mainstay.entry"
"""The key of the scope under which everything inside finds the :class:`HttpEntry`."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the edge of one application lets pass, and how.

    Args:
        own: Answered by the chassis itself, by path, before the application's routes are looked
            through; they need no token.
        quiet: Those of them that machines ask: no limit, logged at debug level.
        public: Paths that need no token; one that ends in ``*`` stands for all below it.
        in_flight_limit: Requests that are worked on at a time; beyond, 503.
        socket_limit: WebSockets that are open at a time, for they live long; beyond, 503.
        rate: What one caller may ask for; ``None`` for any amount.
        limits: Who counts it.
        idempotency: Where the keys of requests are kept.
        middleware: For CORS: put between the edge and the application, around refusals too, and
            left to answer preflight requests.
    """

    own: Mapping[str, ASGIApp] = field(default_factory=dict)
    quiet: frozenset[str] = frozenset()
    public: tuple[str, ...] = ()
    in_flight_limit: int = 1_000
    socket_limit: int = 1_000
    rate: Rule | None = None
    limits: RateLimits | None = None
    idempotency: Store[Any] | None = None
    middleware: Callable[[ASGIApp], ASGIApp] | None = None
    public_paths: frozenset[str] = field(init=False)
    public_folders: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        exact = {path for path in self.public if not path.endswith("*")}
        below = tuple(path[:-1] for path in self.public if path.endswith("*"))
        object.__setattr__(self, "public_paths", frozenset(exact | self.own.keys()))
        object.__setattr__(self, "public_folders", below)

    def is_public(self, path: str) -> bool:
        """Does *path* need no token, though the service asks for one?"""
        if path in self.public_paths:
            return True
        return bool(self.public_folders) and path.startswith(self.public_folders)


class Places:
    """So many at a time and no more; counted on one event loop, which needs no lock.

    Args:
        of: What takes them, for messages.
    """

    __slots__ = ("_limit", "_taken", "of")

    def __init__(self, limit: int, of: str) -> None:
        self.of = of
        self._limit = limit
        self._taken = 0

    def take(self) -> bool:
        """Take a place, if there is one: before the first wait, or others look in between."""
        if self._taken >= self._limit:
            return False
        self._taken += 1
        return True

    def give_back(self) -> None:
        self._taken -= 1


class Edge:
    """Stands before an ASGI application and leads what comes through the stations.

    Args:
        app: The application; what it raises has been answered when it comes out here.
        service: Whose logs, metrics, traces, tokens and lifecycle are used.
        rules: What passes, and how.
    """

    def __init__(self, app: ASGIApp, service: Service, rules: Rules) -> None:
        settings = service.settings
        self.app = app
        self.service = service
        self.rules = rules
        self.requests = Places(rules.in_flight_limit, "requests in hand")
        self.sockets = Places(rules.socket_limit, "WebSockets open")
        self.timeout_seconds = settings.request_timeout_seconds
        self.timeout_text = str(settings.request_timeout_seconds).encode()
        self.body_limit_bytes = settings.body_limit_bytes
        self.auth_required = settings.auth_required
        self.hops = settings.trusted_proxies
        self.is_strict = not settings.is_dev
        self.draining = service.lifecycle.draining
        self.deadlines = Deadlines()
        self.own = rules.own
        self.wrapped = rules.middleware(self._dispatch) if rules.middleware else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        # An application that is mounted in another one passes the stations once.
        if ENTRY in scope or kind not in ("http", "websocket"):
            await self.app(scope, receive, send)
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

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        entry: HttpEntry = scope[ENTRY]
        if entry.problem is not None:
            await entry.answer(entry.problem, send)
        else:
            await entry.app(scope, receive, send)
