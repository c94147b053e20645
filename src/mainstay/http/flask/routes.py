"""The routes that every service has, and what a route may say of itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial, wraps
from http import HTTPStatus
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from flask import Flask, Request, request
from werkzeug.routing import Rule as Route

from mainstay import limits, monitor
from mainstay.errors import NotFound
from mainstay.http import own
from mainstay.http.environ import Environ
from mainstay.http.flask.marks import body_limit_of
from mainstay.http.own import Answering, Asked, Reply
from mainstay.http.problems import MEDIA_TYPE, Problem, not_allowed
from mainstay.http.wsgi import ENTRY, Matched, WsgiEntry

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication

    from mainstay.service import Service

__all__ = [
    "QUIET_PATHS",
    "body_limits",
    "keys",
    "machines",
    "matching",
    "rate_limit",
    "route_of",
    "served",
    "template_of",
]

QUIET_PATHS = monitor.PATHS

P = ParamSpec("P")
R = TypeVar("R")

# `<int:order_id>`, and converters with arguments: `<any(open, paid):state>`.
_VARIABLE = re.compile(r"<(?:[^<>]*:)?([^<>:]+)>")


def machines(service: Service) -> dict[str, WSGIApplication]:
    """Return the answers to `/health`, `/ready`, `/readyz`, `/healthz` and `/metrics`.

    They pass no route and take no place, so they answer also when as much is in hand as may be.
    """
    return {path: served(partial(_asked, service, path)) for path in own.machine_paths(service)}


def _asked(service: Service, path: str, _: Asked) -> Reply:
    answer = monitor.answer(service, path)
    if answer is None:
        raise NotFound(f"there is nothing at {path}")
    return own.reply_of(answer)


def keys(service: Service) -> dict[str, WSGIApplication]:
    """Return the answer to `/.well-known/jwks.json`, where there are keys to publish."""
    return {path: served(answering) for path, answering in own.keys(service).items()}


def served(answering: Answering) -> WSGIApplication:
    """Make an application of *answering*, for GET and HEAD."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        if method in ("GET", "HEAD"):
            encodings = environ.get("HTTP_ACCEPT_ENCODING", "")
            reply = answering(Asked(encodings, environ.get("SCRIPT_NAME", "")))
        elif method == "OPTIONS":
            reply = Reply(204, {"allow": own.READING}, b"")
        else:
            reply = _problem(environ, not_allowed(own.READING))
        headers = list(reply.headers.items())
        if reply.status != 204:
            headers.append(("content-length", str(len(reply.body))))
        start_response(f"{reply.status} {HTTPStatus(reply.status).phrase}", headers)
        return [] if method == "HEAD" else [reply.body]

    return app


def _problem(environ: Environ, problem: Problem) -> Reply:
    entry: WsgiEntry = environ[ENTRY]
    body = problem.document(instance=entry.instance, correlation_id=entry.correlation_id)
    headers = {"content-type": MEDIA_TYPE, "cache-control": "no-store", **dict(problem.headers)}
    return Reply(problem.status, headers, body)


def matching(app: Flask) -> Callable[[Environ], Matched | None]:
    """Return what tells the edge which route of *app* a request was led to.

    Flask leaves its request in the environ for as long as it works on it.
    """
    known: dict[tuple[str, str], Matched] = {}

    def match(environ: Environ) -> Matched | None:
        asked = environ.get("werkzeug.request")
        rule: Route | None = getattr(asked, "url_rule", None)
        if rule is None:
            return None
        key = (rule.rule, rule.endpoint)
        matched = known.get(key)
        if matched is None:
            limit = body_limit_of(app.view_functions.get(rule.endpoint))
            matched = known[key] = Matched(template_of(rule), limit)
        return matched

    return match


def body_limits(app: Flask) -> Callable[[Environ], int]:
    """Return what tells how long a body the route of a request takes, before *app* looks for it;
    0 where it does not say so. Where no route is found, as behind a middleware that changes paths,
    it is as much as any route takes: the edge knows the route when the body is read.
    """

    def limit(environ: Environ) -> int:
        rule = route_of(app, environ)
        if rule is not None:
            return body_limit_of(app.view_functions.get(rule.endpoint))
        return max(map(body_limit_of, app.view_functions.values()), default=0)

    return limit


def route_of(app: Flask, environ: Environ) -> Route | None:
    """Return the route that *app* will lead a request to, if it finds one."""
    with suppress(Exception):  # a host that is no host, a converter of the author's, no route
        adapter = app.create_url_adapter(Request(environ))
        if adapter is not None:
            return adapter.match(return_rule=True)[0]
    return None


def template_of(rule: Route) -> str:
    """Return the template of *rule* as every framework of ours writes it: ``/orders/{id}``."""
    return _VARIABLE.sub(r"{\1}", rule.rule)


def rate_limit(
    rate: str, *, on_store_error: limits.OnStoreError = "local"
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Admit each caller to the decorated view at *rate* at most, besides the service's own
    `rate_limit`::

        @app.post("/login")
        @rate_limit("5/minute", on_store_error="deny")
        def login() -> str: ...

    Args:
        rate: ``N/second``, ``N/minute``, ``N/hour`` or ``N/day``.
        on_store_error: What to do while the store of counts is down: ``local`` counts in this
            process alone, ``deny`` refuses (for logins), ``allow`` admits.
    """
    rule = limits.Rule.parse(rate, on_store_error=on_store_error)

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @wraps(view)
        def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            entry: WsgiEntry = request.environ[ENTRY]
            counts = entry.edge.rules.limits
            if counts is not None:
                counts.hit(rule, f"{entry.route}:{entry.caller}")
            return view(*args, **kwargs)

        return limited

    return decorate
