"""One request and its answer, whatever the wire: what the stations ask of it."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mainstay import context as contexts
from mainstay.context import Context, Principal
from mainstay.errors import NotAuthenticated, Overloaded, Refuse, Retry
from mainstay.http import addresses
from mainstay.http.problems import Problem, status_of
from mainstay.http.routes import UNMATCHED
from mainstay.http.rules import Places
from mainstay.pipeline import Entry, Step

if TYPE_CHECKING:
    import threading

    from mainstay.config import Settings
    from mainstay.http.rules import Rules
    from mainstay.logs import Line
    from mainstay.service import Service

__all__ = ["REQUEST", "Edge", "Exchange", "Seen"]

REQUEST = "request"
"""What the line of a request says that went as requests go."""

_GONE = 499
_MOST_LINES = 2_000


class Seen(Mapping[str, str]):
    """The headers of a request, by lower-case name, as one wire has them."""

    __slots__ = ()

    @property
    @abstractmethod
    def has_token(self) -> bool:
        """Does the request show who asks?"""

    @property
    @abstractmethod
    def is_forwarded(self) -> bool:
        """Does a proxy, or somebody who says so, tell of a client behind it?"""

    @abstractmethod
    def context(self, limit_seconds: float | None) -> Context:
        """Continue the caller's context, or begin one, with our own limit as its deadline.

        An event stream lives longer than any deadline of ours: what works on it is told of none.
        """


class Edge:
    """What stands before an application of any kind: whose it is, and what it lets pass."""

    def __init__(self, service: Service, rules: Rules, requests: Places) -> None:
        settings: Settings = service.settings
        self.service = service
        self.rules = rules
        self.requests = requests
        self.own = rules.own
        self.timeout_seconds = settings.request_timeout_seconds
        self.body_limit_bytes = settings.body_limit_bytes
        self.auth_required = settings.auth_required
        self.hops = settings.trusted_proxies
        self.is_strict = not settings.is_dev
        self.draining: threading.Event = service.lifecycle.draining
        self._lines: dict[tuple[str, str, str, int], Line] = {}

    def note(self, level: str, method: str, route: str, status: int, seconds: float) -> None:
        """Write the line of a request that went as requests go."""
        self.line(level, method, route, status).write(seconds)

    def line(self, level: str, method: str, route: str, status: int) -> Line:
        """Return the line of such requests."""
        line = self._lines.get((level, method, route, status))
        if line is None:
            line = self.service.logs.line(
                level, "mainstay.http", REQUEST, method=method, route=route, status=status
            )
            if len(self._lines) < _MOST_LINES:  # methods are the client's choice
                self._lines[level, method, route, status] = line
        return line


class Exchange(Entry[None]):
    """One HTTP request on its way through the stations."""

    kind = "http"
    span_kind = "server"

    edge: Edge
    seen: Seen
    path: str
    method: str
    asked_method: str

    context: Context | None = None
    problem: Problem | None = None
    failure: BaseException | None = None
    """Why the answer is an error, for the log."""
    is_misfit = False
    """Does the answer say that the request does not fit?"""
    status = 0
    refusal: BaseException | None = None
    """What the answer is, whatever the application makes of it."""

    _place: Places | None = None
    _route: str | None = None

    # --- what each wire knows ------------------------------------------------------------

    @property
    @abstractmethod
    def peer(self) -> str:
        """The address that the connection came from."""

    @property
    @abstractmethod
    def instance(self) -> str:
        """The request's own path, as it came; never its query, which may hold a secret."""

    @property
    @abstractmethod
    def query(self) -> str:
        """What follows the path, without the question mark."""

    @abstractmethod
    def believe_proxies(self) -> None:
        """Put what the trusted proxies say of the client where the application looks for it, and
        take away what a server believes of others.
        """

    @abstractmethod
    def check(self) -> None:
        """Pass when headers, host and path can be held; raises what the caller is to hear."""

    @abstractmethod
    def template(self) -> str:
        """Return the template of the route that matched."""

    @abstractmethod
    def verification(self) -> Step[Principal | None]:
        """Who does the token vouch for?"""

    @abstractmethod
    def counting(self) -> Step[None]:
        """May this caller ask again?"""

    # --- what the stations ask -----------------------------------------------------------

    @property
    def headers(self) -> Mapping[str, str]:
        return self.seen

    def received(self) -> Context:
        return self.seen.context(self.edge.timeout_seconds)

    @property
    def name(self) -> str:
        if not self.status:  # asked before there is a route
            return self.asked_method
        route = self.route
        return self.asked_method if route == UNMATCHED else f"{self.asked_method} {route}"

    @property
    def route(self) -> str:
        """The template of the route that matched; one word for all paths that match none."""
        route = self._route
        if route is None:
            is_own = self.path in self.edge.own
            route = self._route = self.path if is_own else self.template()
        return route

    @property
    def correlation_id(self) -> str:
        return self.context.correlation_id if self.context is not None else ""

    @property
    def client(self) -> str:
        """The client's address, through as many proxies as the settings trust."""
        return addresses.client_address(self.peer, self.seen.get("x-forwarded-for"), self.edge.hops)

    @property
    def target(self) -> str:
        """What was asked for: path and query."""
        query = self.query
        return f"{self.instance}?{query}" if query else self.instance

    @property
    def caller(self) -> str:
        """Who is asking, as limits count it: the principal, else the address."""
        context = contexts.current()
        if context is not None and context.principal is not None:
            return f"principal:{context.principal.subject}"
        return f"address:{self.client}"

    def authenticate(self) -> Step[Principal | None] | None:
        self.context = contexts.current()
        self.check()
        edge = self.edge
        if self.seen.is_forwarded:
            self.believe_proxies()
        if self.seen.has_token:
            return None if self.path in edge.own else self.verification()
        if edge.auth_required and self.needs_token:
            self.refuse_unknown()
        return None

    def refuse_unknown(self) -> None:
        """Nobody vouches for the caller, and somebody has to.

        Raises:
            NotAuthenticated: Unless it is left to the application to find out who asks.
        """
        raise no_token()

    def admit(self) -> Step[None] | None:
        rules = self.edge.rules
        if self.path in rules.quiet or (self.method == "OPTIONS" and self._is_preflight):
            return None
        places = self.places
        if not places.take():
            raise Overloaded(f"the service has as many {places.of} as it may: ask again")
        self._place = places
        if rules.rate is None or rules.limits is None:
            return None
        return self.counting()

    def begin_answer(self) -> None:
        """From now on the client sets the pace, and no deadline holds for what still works."""
        if self.context is not None and self.context.wait is not None:
            self.context.wait.is_over = True

    def leave(self) -> None:
        """Make room for the next one: whatever became of this, it has ended."""
        place, self._place = self._place, None
        if place is not None:
            place.give_back()

    def outcome(self, error: BaseException | None) -> str:
        if isinstance(error, asyncio.CancelledError):
            # Nobody heard: 499 is what proxies write of a client that went away.
            self.status = self.status or (503 if self.edge.draining.is_set() else _GONE)
            return "cancelled"
        if not self.status:  # it is answered when the stations have been passed
            self.status = 500 if error is None else status_of(error)
        status = self.status
        if status < 400:
            return "done" if error is None else "failed"
        if status in (429, 503):
            return "retry"
        if status == 504:
            return "expired"
        return "refused" if status < 500 else "failed"

    def measure(self, outcome: str, seconds: float) -> None:
        self.edge.service.metrics.request(self.asked_method, self.route, self.status, seconds)

    def log(self, outcome: str, seconds: float, error: BaseException | None) -> None:
        status = self.status
        # What it was answered as, where it was: a driver's error by our own name for it, and a
        # body that was refused by the reason, not by what the framework made of it.
        reason = self.refusal or self.failure or error
        if reason is None and status < 500 and self.path not in self.edge.rules.quiet:
            self.edge.note("info", self.asked_method, self.route, status, seconds)
            return
        level, msg, shown = "info", REQUEST, None
        if reason is None:
            if status >= 500:
                level = "warning"
            elif self.path in self.edge.rules.quiet:
                level = "debug"
        elif isinstance(reason, Retry | Refuse | asyncio.CancelledError):
            # A condition that passes; its stack would tell nobody anything.
            if status >= 500:
                level, msg = "warning", str(reason) or outcome
        elif error is not None or status >= 500:
            level, msg, shown = "error", "request failed", reason
        if msg is REQUEST:
            self.edge.note(level, self.asked_method, self.route, status, seconds)
            return
        self.edge.service.logs.write(
            level,
            "mainstay.http",
            msg,
            error=shown,
            method=self.asked_method,
            route=self.route,
            status=status,
            duration_ms=round(seconds * 1000, 3),
        )

    @property
    def places(self) -> Places:
        """What it takes one of while it is worked on."""
        return self.edge.requests

    @property
    def needs_token(self) -> bool:
        edge = self.edge
        if not edge.auth_required or edge.rules.is_public(self.path):
            return False
        return not self._is_preflight

    @property
    def _is_preflight(self) -> bool:
        """Does a browser ask whether it may ask? It never sends a token with that."""
        return self.method == "OPTIONS" and self.edge.rules.answers_other_sites


def no_token(*, takes_logins: bool = False) -> NotAuthenticated:
    """Return the refusal of who shows no token, and is not signed in where that would do."""
    if takes_logins:
        return NotAuthenticated(
            "this needs a token or a login: send the token as Authorization: Bearer …, or sign in "
            "and send the cookie of the session"
        )
    return NotAuthenticated("this needs a token: send it as Authorization: Bearer …")
