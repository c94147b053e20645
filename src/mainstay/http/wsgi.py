"""Lead every request of a WSGI application through the stations: one WSGI middleware.

It knows no framework, and stands outside of whatever the framework and its author put in between:
every answer, a 500 included, carries the correlation id, is counted under its route's template,
and is one line in the log. What `asgi.py` does for event loops, on threads; two things differ.

A thread cannot be stopped from outside. Work is told how long its caller waits, and what waits for
others on its behalf ends in time; but an answer that comes too late by itself comes late, as a 504,
and nothing of its work is kept.

A server says nothing of its life. The service begins with the first request in each process, also
after a fork, unless who runs the server calls :meth:`Edge.begin` before; it ends with the process,
or with the server that :mod:`mainstay.http.bridge` stands behind.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar
from urllib.parse import quote
from weakref import WeakMethod, WeakSet

from mainstay.context import Principal
from mainstay.errors import DeadlineExceeded, MainstayError, Malformed
from mainstay.http import addresses, exchange, rules, tokens
from mainstay.http.cors import Cors
from mainstay.http.environ import Environ, Headers
from mainstay.http.problems import MEDIA_TYPE, Problem, problem_of
from mainstay.http.routes import UNMATCHED
from mainstay.http.rules import Places
from mainstay.http.streams import Body
from mainstay.pipeline import Step, Steps, drive, stations

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication

    from mainstay.service import Service

__all__ = [
    "BODY_FAULT",
    "ENTRY",
    "IN_FLIGHT_LIMIT",
    "MAY_CLOSE",
    "Edge",
    "Matched",
    "Pairs",
    "Rules",
    "UnitOfWork",
    "WsgiEntry",
    "close",
    "is_short",
]

ENTRY = "mainstay.entry"
"""The key of the environ under which everything inside finds the :class:`WsgiEntry`."""

BODY_FAULT = "mainstay.body_fault"
"""The key of an environ whose server has not got all of the body: the error that says why."""

MAY_CLOSE = "mainstay.may_close"
"""The key of an environ whose server takes a `Connection` header from an application: PEP 3333
leaves it to the server, and some refuse it."""

IN_FLIGHT_LIMIT = 60
"""Each takes a thread; what serves has a few more of them, for those who ask how it is."""

Pairs = list[tuple[str, str]]
T = TypeVar("T")

_WHOLE_BYTES = 65_536
"""An answer that announces no more than this is known before any of it leaves."""

_NOSNIFF = ("x-content-type-options", "nosniff")
_OF_PAGES = [
    # Our own forms say where they come from, which Flask-WTF and others want to see over TLS.
    ("referrer-policy", "same-origin"),
    ("x-frame-options", "DENY"),
    ("content-security-policy", "default-src 'self'; frame-ancestors 'none'"),
]
_HSTS = ("strict-transport-security", "max-age=31536000; includeSubDomains")
_CLOSE = ("connection", "close")
_BLANKS = str.maketrans("\r\n\x00", "   ")
_BODILESS = frozenset({"204", "304"})
_KEY = "HTTP_IDEMPOTENCY_KEY"
_HANDLING: Step[None] = Step()


class Matched(NamedTuple):
    """The route that a request was led to.

    Args:
        template: One text for all the paths it matches.
        body_limit_bytes: What it takes, where it says so; else 0.
    """

    template: str
    body_limit_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Rules(rules.Rules):
    """What the edge of one WSGI application lets pass, and how.

    Args:
        match: Asked while the application works on a request: which route did it find?
        body_limit: Asked before it does: how many bytes will the route take? 0 where it does not
            say so.
        takes_login: Asked of a request that shows no token where one is needed: will the
            application itself find out who has signed in, before it does anything?
        check: Called before the service's life begins; raises what it cannot begin with.
        cors: For scripts of other sites; refusals are shown to them too.
    """

    match: Callable[[Environ], Matched | None] | None = None
    body_limit: Callable[[Environ], int] | None = None
    takes_login: Callable[[Environ], bool] | None = None
    check: Callable[[], None] | None = None
    cors: Cors | None = None

    @property
    def answers_other_sites(self) -> bool:
        return self.cors is not None


class UnitOfWork(Protocol):
    """What a handler did that counts only once it is committed."""

    @property
    def holds(self) -> bool:
        """Must the whole answer be known before any of it leaves?"""

    def fail(self) -> None:
        """The handler has raised: what it did is undone, whatever the answer is."""

    def settle(self, status: int, headers: Pairs, body: bytes | None) -> None:
        """Keep or undo what was done; called once, before the answer leaves.

        Args:
            body: The whole body where :attr:`holds`, else ``None``.
        """

    def close(self, error: BaseException | None) -> None:
        """Let go of everything, whatever happened."""


class Edge(exchange.Edge):
    """Stands before a WSGI application and leads what comes through the stations.

    Args:
        app: The application.
        service: Whose logs, metrics, traces, tokens and lifecycle are used.
        rules: What passes, and how.
        process: What this process is called in the log.
    """

    rules: Rules

    def __init__(
        self, app: WSGIApplication, service: Service, rules: Rules, *, process: str = "api"
    ) -> None:
        requests = Places(rules.in_flight_limit, "requests in hand")
        super().__init__(service, rules, requests)
        self.app = app
        self.process = process
        self._begun_in = 0
        self._beginning = threading.Lock()
        self.has_begun = False
        _edges.add(self)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        # An application that is mounted in another one passes the stations once.
        if ENTRY in environ:
            return (self.own.get(environ.get("PATH_INFO", "")) or self.app)(environ, start_response)
        if not self.has_begun:
            self.begin()
        return WsgiEntry(self, environ, start_response).run()

    def body_limit_of(self, environ: Environ) -> int:
        """Return how many bytes the route takes of a request that has not been begun."""
        ask = self.rules.body_limit
        return (ask(environ) if ask is not None else 0) or self.body_limit_bytes

    def check(self) -> None:
        """Pass when the application, which is complete by now, can be served.

        Raises:
            Misconfigured: It cannot.
        """
        if self.rules.check is not None:
            self.rules.check()

    def begin(self) -> None:
        """Begin the service's life in this process; once, however often it is called."""
        with self._beginning:
            if self.has_begun:
                return
            self.check()
            if self._begun_in:
                self.service.forked()
            self.service.start(self.process)
            # An application that nobody has any more, as in tests, has nothing to say at the end.
            atexit.register(_end, WeakMethod(self.service.stop))
            self._begun_in = os.getpid()
            self.has_begun = True

    def end(self) -> None:
        """The service has been stopped; it may begin again in this process."""
        self.has_begun, self._begun_in = False, 0

    def forget(self) -> None:
        """In a forked child: the life that was begun is the parent's."""
        self.has_begun = False
        self._beginning = threading.Lock()


_edges: WeakSet[Edge] = WeakSet()


def _forked() -> None:
    for edge in _edges:
        edge.forget()


os.register_at_fork(after_in_child=_forked)


def _end(stop: weakref.ref[Callable[[], None]]) -> None:
    if (known := stop()) is not None:
        known()


class WsgiEntry(exchange.Exchange):
    """One request to a WSGI application on its way through the stations."""

    edge: Edge
    seen: Headers
    unit: UnitOfWork | None = None
    """What the handler did that counts only once it is committed."""
    awaits_login = False
    """Has the application still to find out who asks?"""

    _given: tuple[str, Pairs] | None = None
    _matched: Matched | None = None
    _body: Body | None = None
    _written: list[bytes]
    _ends_at = 0.0

    def __init__(self, edge: Edge, environ: Environ, start_response: StartResponse) -> None:
        self.edge = edge
        self.environ = environ
        self.seen = Headers(environ)
        self.method = self.asked_method = environ["REQUEST_METHOD"]
        self.path = environ.get("PATH_INFO") or "/"
        self._start_response = start_response
        # Also set on the class; an attribute of the object itself is found twice as fast.
        self.status = 0
        self.unit = None
        self.refusal = None

    def run(self) -> Iterable[bytes]:
        """Pass the stations, and return the answer's body."""
        steps = stations(self, self.edge.service)
        self.environ[ENTRY] = self
        try:
            drive(steps, until=_HANDLING)
        except Exception as error:  # noqa: BLE001 - the way in: what nobody answered ends here
            self.leave()
            return self._refuse(error)
        try:
            body = self._answer()
        except Exception as error:  # noqa: BLE001 - likewise
            self._end(steps, error)
            return self._refuse(error)
        except BaseException as error:
            self._end(steps, error)
            raise
        if isinstance(body, list):
            self._end(steps, None)
            return body
        return _Stream(body, self.unit, lambda failure: self._end(steps, failure))

    # --- what the wire knows -------------------------------------------------------------

    @property
    def peer(self) -> str:
        peer: str = self.environ.get("REMOTE_ADDR", "")
        return peer

    @property
    def instance(self) -> str:
        # Servers hand on the path as it was decoded; what it was before, few of them say.
        path = f"{self.environ.get('SCRIPT_NAME', '')}{self.path}"
        return quote(path.encode("latin-1"), safe="/!$&'()*+,;=:@~")

    @property
    def query(self) -> str:
        query: str = self.environ.get("QUERY_STRING", "")
        return query

    def believe_proxies(self) -> None:
        environ, hops = self.environ, self.edge.hops
        # gunicorn takes the scheme from whoever connects from 127.0.0.1.
        if (connection := environ.get("gunicorn.socket")) is not None:
            is_tls = isinstance(connection, ssl.SSLSocket)
            environ["wsgi.url_scheme"] = "https" if is_tls else "http"
        if not hops:
            return
        environ["REMOTE_ADDR"] = self.client
        environ["wsgi.url_scheme"] = addresses.client_scheme(
            environ["wsgi.url_scheme"], self.seen.get("x-forwarded-proto"), hops
        )

    def check(self) -> None:
        fault = self.seen.fault
        if fault is not None:
            raise fault
        environ = self.environ
        if not environ.get("HTTP_HOST") and environ.get("SERVER_PROTOCOL") == "HTTP/1.1":
            raise Malformed("the request has no Host header, which HTTP/1.1 demands")
        if "\x00" in self.path or "%00" in environ.get("QUERY_STRING", ""):
            raise Malformed("the address holds the character U+0000, which nothing can hold")

    def refuse_unknown(self) -> None:
        takes_login = self.edge.rules.takes_login
        if takes_login is None or not takes_login(self.environ):
            raise exchange.no_token(takes_logins=takes_login is not None)
        self.awaits_login = True

    def template(self) -> str:
        matched = self._match()
        return UNMATCHED if matched is None else matched.template

    def verification(self) -> Step[Principal | None]:
        return Step(self._verify)

    def counting(self) -> Step[None]:
        return Step(self._count)

    def handle(self) -> Step[None]:
        # The stations stand still here while the application answers, to the end of a stream.
        return _HANDLING

    def leave(self) -> None:
        super().leave()
        # Or each request would be a cycle, for the collector to find.
        environ = self.environ
        environ.pop(ENTRY, None)
        if self._body is not None:
            environ["wsgi.input"] = self._body.stream

    def check_time(self) -> None:
        """Pass while the caller still waits.

        Raises:
            DeadlineExceeded: It has been told by now that nothing came.
        """
        if time.monotonic() > self._ends_at:
            raise DeadlineExceeded(
                "the service did not answer in time: nothing of what it did was kept",
                retry_after_seconds=1.0,
            )

    def body_as_received(self) -> bytes:
        """Return the body of a request with an `Idempotency-Key`, whoever has read it."""
        return b"" if self._body is None else self._body.as_received()

    def _verify(self) -> Principal | None:
        principal = tokens.verify(
            self.edge.service.tokens,
            self.environ.get("HTTP_AUTHORIZATION"),
            self.environ.get("HTTP_X_MAINSTAY_TOKEN"),
        )
        if principal is None and self.needs_token:
            self.refuse_unknown()
        return principal

    def _count(self) -> None:
        rules = self.edge.rules
        if rules.limits is not None and rules.rate is not None:
            rules.limits.hit(rules.rate, self.caller)

    # --- the handler ---------------------------------------------------------------------

    def _answer(self) -> Iterable[bytes]:
        """Let the application answer, and settle what it did before any of it leaves.

        Returns:
            The body: a list where all of it is there, else as it comes.
        """
        environ, edge = self.environ, self.edge
        # The context has the nearer of the caller's limit and ours; an event stream has none.
        deadline = self.context.deadline if self.context is not None else None
        self._ends_at = time.monotonic() + edge.timeout_seconds if deadline is None else deadline
        if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ:
            self._bound_body()
        self._written = []
        is_open = False
        body: Iterable[bytes] = ()
        failure: BaseException | None = None
        try:
            body = (edge.own.get(self.path) or self._app)(environ, self._start)
            if self._given is None:
                body = _begun(body)
            if self.refusal is not None:
                raise self.refusal
            body, is_open = self._gathered(body)
            self._settle(body, is_open)
        except BaseException as error:
            failure = error
            if isinstance(error, Exception) and self.refusal is not None:
                # What the application made of a body that we refused is not the news.
                failure = self.refusal
            is_open = False
            with suppress(Exception):
                close(body)
            if failure is not error:
                raise failure from error
            raise
        finally:
            if self.unit is not None and not is_open:
                self.unit.close(failure)
        return body

    @property
    def _app(self) -> WSGIApplication:
        cors = self.edge.rules.cors
        if cors is not None and self.method == "OPTIONS":
            origin = self.environ.get("HTTP_ORIGIN")
            method = self.environ.get("HTTP_ACCESS_CONTROL_REQUEST_METHOD")
            if origin is not None and method is not None:
                return _preflight(cors, origin, method)
        return self.edge.app

    def _bound_body(self) -> None:
        environ = self.environ
        if BODY_FAULT in environ:
            raise environ[BODY_FAULT]
        announced = environ.get("CONTENT_LENGTH") or ""
        # Without a length, and a server that knows the end, there is no body to be had.
        if not announced and "wsgi.input_terminated" not in environ:
            announced = "0"
        environ["wsgi.input"] = self._body = Body(
            environ["wsgi.input"],
            announced=announced,
            content_type=environ.get("CONTENT_TYPE", ""),
            is_keyed=_KEY in environ,
            limit_bytes=self._body_limit,
            ends_at=self._ends_at,
            stop=self._stop,
        )
        environ["wsgi.input_terminated"] = True

    def _body_limit(self) -> int:
        matched = self._match()
        raised = 0 if matched is None else matched.body_limit_bytes
        return raised or self.edge.body_limit_bytes

    def _match(self) -> Matched | None:
        match = self.edge.rules.match
        if self._matched is None and match is not None:
            self._matched = match(self.environ)
        return self._matched

    def _stop(self, error: MainstayError) -> None:
        """Make *error* the answer, whatever the application makes of what it gets instead."""
        self.refusal = error

    def _start(
        self, status: str, headers: Pairs, exc_info: object = None, /
    ) -> Callable[[bytes], object]:
        self._given = (status, headers)
        self._match()  # afterwards frameworks forget it
        return self._written.append

    def _gathered(self, body: Iterable[bytes]) -> tuple[Iterable[bytes], bool]:
        """Return *body* as a list where it is known, or must be; else as it comes."""
        written = self._written
        if isinstance(body, list | tuple):
            return [*written, *body], False
        if not self._is_short and (self.unit is None or not self.unit.holds):
            return (_Chained(body, written, iter(body)) if written else body), True
        whole = [*written, b"".join(body)]
        close(body)
        return whole, False

    @property
    def _is_short(self) -> bool:
        """Does the answer announce a body that is known before any of it leaves?"""
        status, headers = self._given or ("", [])
        if self.method == "HEAD" or status[:3] in _BODILESS:
            return True
        return is_short(headers)

    def _settle(self, body: Iterable[bytes], is_open: bool) -> None:
        line, headers = self._given or ("", [])
        status = int(line[:3])
        if self.awaits_login:
            raise exchange.no_token(takes_logins=True)  # somebody else has answered
        self.check_time()
        if self.unit is not None:
            whole = b"".join(body) if self.unit.holds and not is_open else None
            self.unit.settle(status, headers, whole)
        self.status = status
        self.begin_answer()
        self._send_head(line, headers)

    # --- answers -------------------------------------------------------------------------

    def _refuse(self, error: BaseException) -> list[bytes]:
        """Answer with the problem that *error* is."""
        problem = problem_of(error)
        body = problem.document(instance=self.instance, correlation_id=self.correlation_id)
        headers = [
            ("content-type", MEDIA_TYPE),
            ("content-length", str(len(body))),
            ("cache-control", "no-store"),
            *problem.headers,
        ]
        if problem.status in (400, 408, 413, 431) and MAY_CLOSE in self.environ:
            headers.append(_CLOSE)  # what is left of the request is not worth reading
        self._send_head(_status_line(problem), headers)
        return [] if self.method == "HEAD" else [body]

    def _send_head(self, status: str, given: Pairs) -> None:
        edge = self.edge
        headers = [*given, ("x-correlation-id", self.correlation_id), _NOSNIFF]
        values = "".join([value for _, value in headers])
        if "\n" in values or "\r" in values or "\x00" in values:
            # A value with a line end would be an answer within the answer.
            headers = [(name, value.translate(_BLANKS)) for name, value in headers]
        if "text/html" in values:
            found = {name.lower(): value for name, value in headers}
            if found.get("content-type", "").startswith("text/html"):
                headers += [pair for pair in _OF_PAGES if pair[0] not in found]
        if edge.is_strict and self.environ.get("wsgi.url_scheme") == "https":
            headers.append(_HSTS)
        if edge.rules.cors is not None:
            headers += edge.rules.cors.headers(self.environ.get("HTTP_ORIGIN"))
        if edge.draining.is_set() and MAY_CLOSE in self.environ:
            headers.append(_CLOSE)
        self._start_response(status, headers)

    def _end(self, steps: Steps[None], failure: BaseException | None) -> None:
        """Let the stations end: the request is counted, and its line written."""
        try:
            if failure is None:
                steps.send(None)
            else:
                steps.throw(failure)
        except StopIteration:
            pass
        except BaseException as error:
            if error is not failure:
                raise
        finally:
            self.leave()


class _Stream:
    """An answer that goes on after the call; the stations wait for its end.

    A server closes it also when the client has gone away.
    """

    def __init__(
        self,
        body: Iterable[bytes],
        unit: UnitOfWork | None,
        end: Callable[[BaseException | None], None],
    ) -> None:
        self._body = body
        self._pieces = iter(body)
        self._unit = unit
        self._end: Callable[[BaseException | None], None] | None = end
        self._failure: BaseException | None = asyncio.CancelledError("the client has gone away")

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration:
            self._failure = None
            raise
        except BaseException as error:
            self._failure = error
            raise

    def close(self) -> None:
        end, self._end = self._end, None
        if end is None:
            return
        try:
            close(self._body)
        finally:
            try:
                if self._unit is not None:
                    self._unit.close(self._failure)
            finally:
                end(self._failure)


class _Chained:
    """The first pieces of *body*, which have been taken, and then the others."""

    def __init__(self, body: Iterable[bytes], first: list[bytes], others: Iterator[bytes]) -> None:
        self._body = body
        self._pieces = chain(first, others)

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        close(self._body)


def _begun(body: Iterable[bytes]) -> Iterable[bytes]:
    """Take the first piece: who answers as a generator calls `start_response` with it."""
    pieces = iter(body)
    return _Chained(body, list(islice(pieces, 1)), pieces)


def is_short(headers: Pairs) -> bool:
    """Do the headers of an answer announce a body that is to be known before any of it leaves?"""
    length = dict(headers).get("Content-Length")
    if length is None:
        length = {name.lower(): value for name, value in headers}.get("content-length")
    return length is not None and int(length) <= _WHOLE_BYTES


def close(body: Iterable[bytes]) -> None:
    """Close an answer's body, where it can be closed."""
    closing = getattr(body, "close", None)
    if closing is not None:
        closing()


def _preflight(cors: Cors, origin: str, method: str) -> WSGIApplication:
    def app(environ: Environ, start_response: StartResponse) -> Sequence[bytes]:
        asked = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS")
        status, headers, text = cors.preflight(origin, method, asked)
        start_response(f"{status} {HTTPStatus(status).phrase}", headers)
        return [text.encode()]

    return app


def _status_line(problem: Problem) -> str:
    try:
        phrase = HTTPStatus(problem.status).phrase
    except ValueError:
        phrase = "Error"
    return f"{problem.status} {phrase}"
