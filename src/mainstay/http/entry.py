"""One request between its wire and its handler: what the stations ask of it, and its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from operator import itemgetter
from typing import TYPE_CHECKING, Protocol

from mainstay import context as contexts
from mainstay import idempotency
from mainstay.context import Context, Principal
from mainstay.errors import DeadlineExceeded, MainstayError, Malformed
from mainstay.http import addresses, bodies, exchange, tokens
from mainstay.http.connections import forget_forwarded
from mainstay.http.deadlines import Timed
from mainstay.http.headers import Headers
from mainstay.http.problems import MEDIA_TYPE, Problem, as_error, problem_of
from mainstay.http.routes import UNMATCHED, path_below, template_of
from mainstay.http.wire import ASGIApp, Message, RawHeaders, Receive, Scope, Send
from mainstay.pipeline import Step

if TYPE_CHECKING:
    from mainstay.http.asgi import Edge
    from mainstay.http.rules import Places

__all__ = ["BODY_LIMIT", "HttpEntry", "SocketEntry", "UnitOfWork"]

BODY_LIMIT = "__mainstay_body_limit__"
"""The attribute of an endpoint that raises the limit of its body."""

PIECE_BYTES = 65_536
"""What a client takes at a time of a long body, so that one who does not read holds no more."""

_NOSNIFF = (b"x-content-type-options", b"nosniff")
_OF_PAGES = [
    # Our own forms say where they come from, which Flask-WTF and others want to see over TLS.
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'"),
]
_HSTS = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")
_CLOSE = (b"connection", b"close")
_BLANKS = bytes.maketrans(b"\r\n\x00", b"   ")
_value = itemgetter(1)


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


class HttpEntry(exchange.Exchange, Timed):
    """One HTTP request on its way through the stations."""

    edge: Edge
    seen: Headers
    unit: UnitOfWork | None = None
    """What the handler did that counts only once it is committed."""
    body: bytes | None = None
    """All of it as it was received, once it has been read; of a request with an
    `Idempotency-Key` alone."""

    _held: list[Message] | None = None
    _body_bytes = 0
    _body_limit = 0
    _body: list[bytes] | None = None
    _is_body_awaited = False
    _is_body_complete = False
    _is_keyed = False
    _check: Callable[[bytes], None] | None = None

    def __init__(self, edge: Edge, scope: Scope, receive: Receive, send: Send) -> None:
        self.edge = edge
        self.scope = scope
        self.method = self.asked_method = scope.get("method", "WEBSOCKET")
        self._root_path: str = scope.get("root_path", "")
        self.path = path_below(self._root_path, scope["path"]) or "/"
        self.seen = Headers(scope["headers"])
        self._receive = receive
        self._send = send
        # Also set on the class; an attribute of the object itself is found twice as fast.
        self.status = 0
        self.unit = None
        self.refusal = None
        self._has_started = False
        if self.method == "HEAD":
            # Answered as GET; the server, and we, leave the body away.
            self.method = "GET"
            self.scope = {**scope, "method": "GET"}

    # --- what the wire knows -------------------------------------------------------------

    @property
    def app(self) -> ASGIApp:
        """What answers: the application, or one of the chassis' own answers."""
        return self.edge.own.get(self.path) or self.edge.app

    @property
    def peer(self) -> str:
        peer = self.scope.get("client")
        return peer[0] if peer else ""

    @property
    def instance(self) -> str:
        raw: bytes | None = self.scope.get("raw_path")
        return raw.decode("latin-1") if raw is not None else self.scope["path"]

    @property
    def query(self) -> str:
        query: bytes = self.scope["query_string"]
        return query.decode("latin-1")

    def believe_proxies(self) -> None:
        scope, hops = self.scope, self.edge.hops
        forget_forwarded(scope, self._receive)
        if not hops:
            return
        scope["client"] = (self.client, 0)
        scope["scheme"] = addresses.client_scheme(
            scope.get("scheme", "http"), self.seen.get("x-forwarded-proto"), hops
        )

    def check(self) -> None:
        seen, scope = self.seen, self.scope
        if (fault := seen.fault) is not None:
            raise fault
        if not seen.has_host and scope.get("http_version") == "1.1":
            raise Malformed("the request has no Host header, which HTTP/1.1 demands")
        # Not `in`, which first tries to take what it looks for as a number: it costs twice as much.
        if scope["query_string"].find(b"%00") >= 0 or scope.get("raw_path", b"").find(b"%00") >= 0:
            raise Malformed("the address holds the character U+0000, which nothing can hold")

    def template(self) -> str:
        return template_of(self.scope, self._root_path)

    def verification(self) -> Step[Principal | None]:
        return Step(aio=self._verify)

    def counting(self) -> Step[None]:
        return Step(aio=self._count)

    def handle(self) -> Step[None]:
        return Step(aio=self._run)

    async def _verify(self) -> Principal | None:
        principal = await tokens.authenticate(
            self.edge.service.tokens,
            self.seen.get("authorization"),
            self.seen.get(contexts.PRINCIPAL_TOKEN),
        )
        if principal is None and self.needs_token:
            self.refuse_unknown()
        return principal

    async def _count(self) -> None:
        rules = self.edge.rules
        if rules.limits is not None and rules.rate is not None:
            await rules.limits.ahit(rules.rate, self.caller)

    # --- the handler ---------------------------------------------------------------------

    async def _run(self) -> None:
        edge = self.edge
        # Never later than our own limit; an event stream has no deadline, but has to begin.
        deadline = self.context.deadline if self.context is not None else None
        self.begin(deadline or time.monotonic() + edge.timeout_seconds)
        edge.deadlines.watch(self)
        failure: BaseException | None = None
        try:
            await (edge.wrapped or self.app)(self.scope, self.receive, self.send)
            if self.refusal is not None:
                raise self.refusal
        except asyncio.CancelledError as error:
            failure = error
            if not self.is_late or not self.absorb():
                raise
            failure = self._lateness()
            raise failure from None
        except Exception as error:
            # What the application made of a body that we refused is not the news.
            failure = self.refusal or as_error(error)
            if failure is not error:
                raise failure from error
            raise
        finally:
            if self._task is not None:
                edge.deadlines.leave(self)
            if self.unit is not None:
                await self.unit.close(failure)

    def _lateness(self) -> MainstayError:
        if self._is_body_awaited:
            return bodies.too_late()
        return DeadlineExceeded(
            "the service did not answer in time: what it began may be done or not",
            retry_after_seconds=1.0,
        )

    async def receive(self) -> Message:
        if self.refusal is not None:
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
                raise bodies.too_large(self._body_limit)
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
            raise self._stop(bodies.too_large(limit))
        self._is_keyed = idempotency.HEADER in self.seen
        content_type = self.seen.get("content-type")
        self._check = None if content_type is None else bodies.check_of(content_type)
        if self._is_keyed or self._check is not None:
            self._body = []

    def _check_body(self) -> None:
        body, self._body = self._body or [], None
        whole = body[0] if len(body) == 1 else b"".join(body)
        if whole and self._check is not None:
            self._check(whole)
        if self._is_keyed:
            self.body = whole

    def _stop(self, error: MainstayError) -> BaseException:
        """Make *error* the answer, whatever the application makes of what it gets instead."""
        self.refusal = error
        return _Refused(str(error))

    def send(self, message: Message) -> Awaitable[None]:
        """Pass an answer of the application on, once what it promises is committed.

        No coroutine of its own around the server's, where nothing is to be awaited before: there
        are two of them in every request.
        """
        if self.refusal is not None or self.unit is not None:
            return self._settle_and_send(message)
        if self._task is not None:
            # It is being cancelled: what a task of its own still sends is too late.
            if self.is_late:
                return _nothing()
            self.edge.deadlines.leave(self)  # from now on the client sets the pace
        return self.pass_on(message)

    async def _settle_and_send(self, message: Message) -> None:
        if self.refusal is not None:
            return
        if message["type"] == "http.response.start":
            self.edge.deadlines.leave(self)
            if self.unit is not None:
                if self.unit.holds:
                    self._held = [message]
                    return
                try:
                    await self.unit.settle(message["status"], message.get("headers", []), None)
                except Exception as error:  # noqa: BLE001 - nothing has left: a clean answer
                    self.refusal = error
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
            self.refusal = error
            return
        self._held = None
        await self.pass_on(start)
        await self.pass_on({"type": "http.response.body", "body": body})

    def pass_on(self, message: Message) -> Awaitable[None]:
        """Send a message with what every answer's header carries."""
        if message["type"] == "http.response.start":
            self._has_started = True
            self.begin_answer()
            self.status = message["status"]
            message["headers"] = self._finish(message.get("headers", ()))
        elif "body" in message:
            if self.asked_method == "HEAD":
                message = {**message, "body": b""}
            elif len(message["body"]) > PIECE_BYTES:
                return self._send_in_pieces(message)
        return self._send(message)

    async def _send_in_pieces(self, message: Message) -> None:
        # The server waits between two messages, not within one, while nobody reads.
        body = message["body"]
        *firsts, last = range(0, len(body), PIECE_BYTES)
        for at in firsts:
            piece = body[at : at + PIECE_BYTES]
            await self._send({**message, "body": piece, "more_body": True})
        await self._send({**message, "body": body[last:]})

    def _finish(self, given: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
        edge = self.edge
        headers = [*given, (b"x-correlation-id", self.correlation_id.encode()), _NOSNIFF]
        values = b"".join(map(_value, headers))
        find = values.find
        if find(b"\n") >= 0 or find(b"\r") >= 0 or find(b"\x00") >= 0:
            # A value with a line end would be an answer within the answer.
            headers = [(name, value.translate(_BLANKS)) for name, value in headers]
        if find(b"text/html") >= 0:
            found = dict(headers)
            if found.get(b"content-type", b"").startswith(b"text/html"):
                headers += [pair for pair in _OF_PAGES if pair[0] not in found]
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

    def received(self) -> Context:
        # No deadline: a connection lives as long as both sides want.
        return self.seen.context(None)

    @property
    def places(self) -> Places:
        return self.edge.sockets

    def send(self, message: Message) -> Awaitable[None]:
        return self.pass_on(message)

    async def pass_on(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self._has_started = True
            self.begin_answer()
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

    def _as_denial(self, message: Message) -> Awaitable[None]:
        return self.pass_on({**message, "type": f"websocket.{message['type']}"})


class _Refused(Exception):
    """What an application gets in the place of a body that is refused."""


async def _nothing() -> None:
    return None
