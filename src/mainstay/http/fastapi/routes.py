"""The routes that every service has, and what a route may say of itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from mainstay import limits, monitor
from mainstay.errors import NotFound
from mainstay.http import own
from mainstay.http.asgi import ENTRY
from mainstay.http.entry import BODY_LIMIT, HttpEntry
from mainstay.http.fastapi import errors
from mainstay.http.problems import not_allowed
from mainstay.http.wire import ASGIApp, Receive, Scope, Send

if TYPE_CHECKING:
    from mainstay.service import Service

__all__ = ["QUIET_PATHS", "body_limit", "keys", "machines", "rate_limit", "served"]

QUIET_PATHS = monitor.PATHS

Endpoint = TypeVar("Endpoint", bound=Callable[..., object])


def machines(service: Service) -> dict[str, ASGIApp]:
    """Return the answers to `/health`, `/ready`, `/readyz`, `/healthz` and `/metrics`.

    They pass no route and no dependency and ask on threads of their own, so they answer also when
    everything that serves requests is busy.
    """
    return {path: _readable(partial(_asked, service, path)) for path in own.machine_paths(service)}


async def _asked(service: Service, path: str, _: Request) -> Response:
    answer = await monitor.aanswer(service, path)
    if answer is None:
        raise NotFound(f"there is nothing at {path}")
    return _response(own.reply_of(answer))


def keys(service: Service) -> dict[str, ASGIApp]:
    """Return the answer to `/.well-known/jwks.json`, where there are keys to publish."""
    return {path: served(answering) for path, answering in own.keys(service).items()}


def served(answering: own.Answering) -> ASGIApp:
    """Make an application of *answering*, for GET and HEAD."""

    async def answer(request: Request) -> Response:
        encodings = request.headers.get("accept-encoding", "")
        root_path: str = request.scope.get("root_path", "").rstrip("/")
        return _response(answering(own.Asked(encodings, root_path)))

    return _readable(answer)


def _readable(answer: Callable[[Request], Awaitable[Response]]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            response = None
        elif scope["method"] == "GET":
            response = await answer(Request(scope))
        elif scope["method"] == "OPTIONS":
            response = Response(status_code=204, headers={"allow": own.READING})
        else:
            response = errors.respond(Request(scope), not_allowed(own.READING))
        if response is not None:
            await response(scope, receive, send)

    return app


def _response(reply: own.Reply) -> Response:
    return Response(reply.body, reply.status, reply.headers)


def body_limit(limit_bytes: int) -> Callable[[Endpoint], Endpoint]:
    """Let the decorated handler read a body of up to *limit_bytes*, instead of the service's
    `body_limit_bytes`::

        @app.post("/images")
        @body_limit(20 * 1024 * 1024)
        async def upload(request: Request) -> None: ...
    """
    if limit_bytes < 1:
        raise ValueError("a body limit is at least one byte")

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, BODY_LIMIT, limit_bytes)
        return endpoint

    return mark


def rate_limit(
    rate: str, *, on_store_error: limits.OnStoreError = "local"
) -> Callable[[Request], Awaitable[None]]:
    """Return a dependency that admits each caller to its routes at *rate* at most, besides the
    service's own `rate_limit`: ``dependencies=[Depends(rate_limit("5/minute"))]``.

    Args:
        rate: ``N/second``, ``N/minute``, ``N/hour`` or ``N/day``.
        on_store_error: What to do while the store of counts is down: ``local`` counts in this
            process alone, ``deny`` refuses (for logins), ``allow`` admits.
    """
    rule = limits.Rule.parse(rate, on_store_error=on_store_error)

    async def check(request: Request) -> None:
        entry: HttpEntry = request.scope[ENTRY]
        counts = entry.edge.rules.limits
        if counts is not None:
            await counts.ahit(rule, f"{entry.route}:{entry.caller}")

    return check
