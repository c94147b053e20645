"""One request between its wire and its handler: what the stations ask of it, and its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from mainstay import context as contexts
from mainstay.context import Context, Principal
from mainstay.errors import (
    DeadlineExceeded,
    MainstayError,
    Malformed,
    NotAuthenticated,
    Overloaded,
    Refuse,
    Retry,
    TooLarge,
)
from mainstay.http import addresses, bodies, tokens
from mainstay.http.deadlines import Timed
from mainstay.http.headers import Headers
from mainstay.http.problems import MEDIA_TYPE, Problem, TimedOut, problem_of, status_of
from mainstay.http.routes import UNMATCHED, template_of
from mainstay.http.wire import ASGIApp, Message, RawHeaders, Receive, Scope, Send
from mainstay.pipeline import Entry, Step

if TYPE_CHECKING:
    from mainstay.http.asgi import Edge, Places

__all__ = ["BODY_LIMIT", "HttpEntry", "SocketEntry", "UnitOfWork"]

BODY_LIMIT = "__mainstay_body_limit__"
"""The attribute of an endpoint that raises the limit of its body."""

PIECE_BYTES = 65_536
"""What a client takes at a time of a long body, so that one who does not read holds no more."""

_NOSNIFF = (b"x-content-type-options", b"nosniff")
_OF_PAGES = [(b"referrer-policy", b"no-referrer"), (b"x-frame-options", b"DENY")]
_NOTHING_FROM_OUTSIDE = (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'")
_HSTS = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")
_CLOSE = (b"connection", b"close")
_GONE = 499
_FORM = "application/x-www-form-urlencoded"
_BLANKS = bytes.maketrans(b"\r\n\x00", b"   ")


class UnitOfWork(Protocol):
    """What a handler did that counts only once it is committed."""

    @property
    def holds(self) -> bool:
        """Must the whole answer be known before any of it leaves?"""

    async def settle(self, status: int, headers: RawHeaders, body: bytes | None) -> None:
        """Keep or undo what was done; called once, before the answer leaves.

        Args:
            body: The whole body where :attr:`holds`, else ``None``.
        """

    async def close(self, error: BaseException | None) -> None:
        """Let go of everything, whatever happened."""


class HttpEntry(Entry[None], Timed):
    """One HTTP request on its way through the stations."""

    kind = "http"
    span_kind = "server"

    context: Context | None = None
    unit: UnitOfWork | None = None
    """What the handler did that counts only once it is committed."""
    problem: Problem | None = None
    failure: BaseException | None = None
    """Why the answer is an error, for the log."""
    is_misfit = False
    """Does the answer say that the request does not fit?"""
    status = 0

    _place: Places | None = None
    _route: str | None = None
    _refusal: BaseException | None = None
    _has_started = False
    _held: list[Message] | None = None
    _body_bytes = 0
    _body_limit = 0
    _body: list[bytes] | None = None
    _is_body_awaited = False
    _is_body_complete = False

    def __init__(self, edge: Edge, scope: Scope, receive: Receive, send: Send) -> None:
        self.edge = edge
        self.scope = scope
        self.method: str = scope.get("method", "WEBSOCKET")
        self.asked_method: str = self.method
        self.seen = Headers(scope["headers"])
        self._path: str = scope["path"]
        self._receive = receive
        self._send = send
        if self.method == "HEAD":
            # Answered as GET; the server, and we, leave the body away.
            self.method = "GET"
            self.scope = {**scope, "method": "GET"}

    # --- what the stations ask -----------------------------------------------------------

    @property
    def headers(self) -> Mapping[str, str]:
        seen = self.seen
        seen.bound_timeout(self.edge.timeout_seconds, self.edge.timeout_text)
        return seen

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
            is_own = self._path in self.edge.rules.own
            route = self._route = self._path if is_own else template_of(self.scope)
        return route

    @property
    def app(self) -> ASGIApp:
        """What answers: the application, or one of the chassis' own answers."""
        return self.edge.own.get(self._path) or self.edge.app

    @property
    def correlation_id(self) -> str:
        return self.context.correlation_id if self.context is not None else ""

    @property
    def client(self) -> str:
        """The client's address, through as many proxies as the settings trust."""
        peer = self.scope.get("client")
        return addresses.client_address(
            peer[0] if peer else "", self.seen.get("x-forwarded-for"), self.edge.hops
        )

    def authenticate(self) -> Step[Principal | None] | None:
        self.context = contexts.current()
        edge = self.edge
        fault = self.seen.fault
        if fault is not None:
            raise fault
        if edge.hops:
            self._believe_proxies()
        scope = self.scope
        if scope.get("http_version") == "1.1" and "host" not in self.seen:
            raise Malformed("the request has no Host header, which HTTP/1.1 demands")
        if b"%00" in scope["query_string"] or b"%00" in scope.get("raw_path", b""):
            raise Malformed("the address holds the character U+0000, which nothing can hold")
        if self.seen.has_token:
            return None if self._path in edge.own else Step(aio=self._verify)
        if self._needs_token:
            raise _no_token()
        return None

    def admit(self) -> Step[None] | None:
        edge = self.edge
        rules = edge.rules
        if self._path in rules.quiet or self._is_preflight:
            return None
        places = self._places
        if not places.take():
            raise Overloaded(f"the service has as many {places.of} as it may: ask again")
        self._place = places
        if rules.rate is None or rules.limits is None:
            return None
        return Step(aio=self._count)

    def handle(self) -> Step[None]:
        return Step(aio=self._run)

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
        level, msg, shown = "info", "request", None
        # What it was answered as, where it was: a driver's error by our own name for it, and a
        # body that was refused by the reason, not by what the framework made of it.
        reason = self._refusal or self.failure or error
        if reason is None:
            if status >= 500:
                level = "warning"
            elif self._path in self.edge.rules.quiet:
                level = "debug"
        elif isinstance(reason, Retry | Refuse | asyncio.CancelledError):
            # A condition that passes; its stack would tell nobody anything.
            if status >= 500:
                level, msg = "warning", str(reason) or outcome
        elif error is not None or status >= 500:
            level, msg, shown = "error", "request failed", reason
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
    def instance(self) -> str:
        """The request's own path, as it came; never its query, which may hold a secret."""
        raw: bytes | None = self.scope.get("raw_path")
        return raw.decode("latin-1") if raw is not None else self._path

    @property
    def target(self) -> str:
        """What was asked for: path and query, as they came."""
        query: bytes = self.scope["query_string"]
        return f"{self.instance}?{query.decode('latin-1')}" if query else self.instance

    @property
    def caller(self) -> str:
        """Who is asking, as limits count it: the principal, else the address."""
        context = contexts.current()
        if context is not None and context.principal is not None:
            return f"principal:{context.principal.subject}"
        return f"address:{self.client}"

    @property
    def _places(self) -> Places:
        return self.edge.requests

    @property
    def _needs_token(self) -> bool:
        edge = self.edge
        if not edge.auth_required or edge.rules.is_public(self._path):
            return False
        return not self._is_preflight

    @property
    def _is_preflight(self) -> bool:
        """Does a browser ask whether it may ask? It never sends a token with that."""
        return self.method == "OPTIONS" and self.edge.rules.middleware is not None

    def _believe_proxies(self) -> None:
        scope, hops = self.scope, self.edge.hops
        scope["client"] = (self.client, 0)
        scope["scheme"] = addresses.client_scheme(
            scope.get("scheme", "http"), self.seen.get("x-forwarded-proto"), hops
        )

    # --- the handler ---------------------------------------------------------------------

    async def _verify(self) -> Principal | None:
        principal = await tokens.authenticate(
            self.edge.service.tokens,
            self.seen.get("authorization"),
            self.seen.get(contexts.PRINCIPAL_TOKEN),
        )
        if principal is None and self._needs_token:
            raise _no_token()
        return principal

    async def _count(self) -> None:
        rules = self.edge.rules
        if rules.limits is not None and rules.rate is not None:
            await rules.limits.ahit(rules.rate, self.caller)

    async def _run(self) -> None:
        edge = self.edge
        ends_at = self.context.deadline if self.context is not None else None
        self.begin(time.monotonic() + edge.timeout_seconds if ends_at is None else ends_at)
        edge.deadlines.watch(self)
        failure: BaseException | None = None
        try:
            await (edge.wrapped or self.app)(self.scope, self.receive, self.send)
            if self._refusal is not None:
                raise self._refusal
        except asyncio.CancelledError as error:
            failure = error
            if not self.is_late or not self.absorb():
                raise
            failure = self._lateness()
            raise failure from None
        except Exception as error:
            # What the application made of a body that we refused is not the news.
            failure = self._refusal or error
            if failure is not error:
                raise failure from error
            raise
        finally:
            edge.deadlines.leave(self)
            if self.unit is not None:
                await self.unit.close(failure)

    def _lateness(self) -> MainstayError:
        if self._is_body_awaited:
            return TimedOut("the body did not come in time: send it faster")
        return DeadlineExceeded(
            "the service did not answer in time: what it began may be done or not",
            retry_after_seconds=1.0,
        )

    async def receive(self) -> Message:
        if self._refusal is not None:
            return {"type": "http.disconnect"}
        if not self._body_limit:
            self._begin_body()
        self._is_body_awaited = not self._is_body_complete
        message = await self._receive()
        self._is_body_awaited = False
        if message["type"] != "http.request":
            return message
        self._is_body_complete = not message.get("more_body", False)
        chunk = message.get("body", b"")
        self._body_bytes += len(chunk)
        try:
            if self._body_bytes > self._body_limit:
                raise self._too_large()
            if self._body is not None:
                self._body.append(chunk)
                if self._is_body_complete:
                    self._check_body()
        except MainstayError as error:
            raise self._stop(error) from None
        return message

    def _begin_body(self) -> None:
        """The first read: the route is known, so its own limit is too."""
        endpoint = self.scope.get("endpoint")
        limit: int = getattr(endpoint, BODY_LIMIT, 0) or self.edge.body_limit_bytes
        self._body_limit = limit
        announced = self.seen.get("content-length")
        # Refused before a byte of it is read.
        if announced is not None and (not announced.isdecimal() or int(announced) > limit):
            raise self._stop(self._too_large())
        content_type = self.seen.get("content-type")
        if content_type is not None and (
            bodies.is_json(content_type) or content_type.startswith(_FORM)
        ):
            self._body = []

    def _check_body(self) -> None:
        body, self._body = self._body or [], None
        whole = body[0] if len(body) == 1 else b"".join(body)
        if whole and self.seen["content-type"].startswith(_FORM):
            bodies.check_form(whole)
        elif whole:
            bodies.check_json(whole)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self._body_limit} bytes: send less")

    def _stop(self, error: MainstayError) -> BaseException:
        """Make *error* the answer, whatever the application makes of what it gets instead."""
        self._refusal = error
        return _Refused(str(error))

    async def send(self, message: Message) -> None:
        """Pass an answer of the application on, once what it promises is committed."""
        if self._refusal is not None:
            return
        if message["type"] == "http.response.start":
            self.edge.deadlines.leave(self)  # from now on the client sets the pace
            if self.unit is not None:
                if self.unit.holds:
                    self._held = [message]
                    return
                try:
                    await self.unit.settle(message["status"], message.get("headers", []), None)
                except Exception as error:  # noqa: BLE001 - nothing has left: a clean answer
                    self._refusal = error
                    return
        elif self._held is not None:
            await self._hold(message)
            return
        await self.pass_on(message)

    async def _hold(self, message: Message) -> None:
        held = self._held
        if held is None or self.unit is None:
            return
        held.append(message)
        if message.get("more_body", False):
            return
        start, *parts = held
        body = b"".join(part.get("body", b"") for part in parts)
        try:
            await self.unit.settle(start["status"], start.get("headers", []), body)
        except Exception as error:  # noqa: BLE001 - nothing has left: a clean answer
            self._refusal = error
            return
        self._held = None
        await self.pass_on(start)
        await self.pass_on({"type": "http.response.body", "body": body})

    async def pass_on(self, message: Message) -> None:
        """Send a message with what every answer's header carries."""
        message = self._prepared(message)
        body = message.get("body", b"")
        if len(body) > PIECE_BYTES:
            # The server waits between two messages, not within one, while nobody reads.
            *firsts, last = range(0, len(body), PIECE_BYTES)
            for at in firsts:
                piece = body[at : at + PIECE_BYTES]
                await self._send({**message, "body": piece, "more_body": True})
            message = {**message, "body": body[last:]}
        await self._send(message)

    def _prepared(self, message: Message) -> Message:
        if message["type"] == "http.response.start":
            self._has_started = True
            self.status = message["status"]
            message["headers"] = self._finish(message.get("headers", ()))
        elif self.asked_method == "HEAD" and message["type"] == "http.response.body":
            return {**message, "body": b""}
        return message

    def _finish(self, given: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
        edge = self.edge
        headers = list(given)
        is_page = is_policed = False
        for index, (name, value) in enumerate(headers):
            if b"\n" in value or b"\r" in value or b"\x00" in value:
                # A value with a line end would be an answer within the answer.
                headers[index] = (name, value.translate(_BLANKS))
            if name == b"content-type":
                is_page = value.startswith(b"text/html")
            elif name == b"content-security-policy":
                is_policed = True
        headers.append((b"x-correlation-id", self.correlation_id.encode()))
        headers.append(_NOSNIFF)
        if is_page:
            headers += _OF_PAGES
            if not is_policed:
                headers.append(_NOTHING_FROM_OUTSIDE)
        if edge.is_strict and self.scope.get("scheme") == "https":
            headers.append(_HSTS)
        if edge.draining.is_set() and self.scope.get("http_version", "1.1") < "2":
            headers.append(_CLOSE)
        return headers

    # --- answers of the edge itself ------------------------------------------------------

    @property
    def is_cancelled_by_shutdown(self) -> bool:
        return not self._has_started and self.edge.draining.is_set()

    async def refuse(self, error: BaseException) -> None:
        """Answer with the problem that *error* is, if nothing has been answered yet."""
        if self._has_started:
            return
        self.problem = problem_of(error)
        if self.edge.wrapped is not None:
            await self.edge.wrapped(self.scope, self._receive, self.pass_on)
        else:
            await self.answer(self.problem, self.pass_on)

    async def answer(self, problem: Problem, send: Send) -> None:
        """Send *problem* as the whole answer."""
        body = problem.document(instance=self.instance, correlation_id=self.correlation_id)
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            *((name.encode(), value.encode("latin-1")) for name, value in problem.headers),
        ]
        if problem.status in (400, 408, 413, 431):
            headers.append(_CLOSE)  # what is left of the request is not worth reading
        await send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class SocketEntry(HttpEntry):
    """One WebSocket connection: through the same stations, measured when it ends."""

    def __init__(self, edge: Edge, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(edge, scope, receive, send)
        self._is_closed = False

    async def _run(self) -> None:
        failure: BaseException | None = None
        try:
            await (self.edge.wrapped or self.app)(self.scope, self._receive, self.send)
        except BaseException as error:
            failure = error
            raise
        finally:
            if self.unit is not None:
                await self.unit.close(failure)

    @property
    def _places(self) -> Places:
        return self.edge.sockets

    @property
    def headers(self) -> Mapping[str, str]:
        # No deadline: a connection lives as long as both sides want.
        return self.seen

    async def send(self, message: Message) -> None:
        await self.pass_on(message)

    async def pass_on(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self._has_started = True
            self.status = 101
            correlation_id = (b"x-correlation-id", self.correlation_id.encode())
            message["headers"] = [*message.get("headers", ()), correlation_id]
        elif kind == "websocket.close":
            if not (self._has_started or self._is_closed) and self._can_deny:
                status = 404 if self.route == UNMATCHED else 403
                detail = message.get("reason") or "there is no WebSocket here for who asks"
                await self.answer(Problem.of_status(status, detail), self._as_denial)
                return
            self._is_closed = True
            self.status = self.status or 403  # what servers answer to a refused handshake
        elif kind == "websocket.http.response.start":
            self._has_started = self._is_closed = True
            self.status = message["status"]
            message["headers"] = self._finish(message.get("headers", ()))
        await self._send(message)

    async def refuse(self, error: BaseException) -> None:
        if self._is_closed:
            return
        problem = problem_of(error)
        if self._has_started:
            await self.pass_on({"type": "websocket.close", "code": 1011, "reason": problem.title})
        elif self._can_deny:
            await self.answer(problem, self._as_denial)
        else:
            await self.pass_on({"type": "websocket.close", "code": 1008, "reason": problem.title})

    @property
    def _can_deny(self) -> bool:
        """Can the server refuse a handshake with an answer of ours?"""
        return "websocket.http.response" in self.scope.get("extensions", {})

    async def _as_denial(self, message: Message) -> None:
        await self.pass_on({**message, "type": f"websocket.{message['type']}"})


class _Refused(Exception):
    """What an application gets in the place of a body that is refused."""


def _no_token() -> NotAuthenticated:
    return NotAuthenticated("this needs a token: send it as Authorization: Bearer …")
