"""The routes that every service has, and what a route may say of itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response

from mainstay import limits, monitor
from mainstay.errors import NotFound
from mainstay.http.asgi import ENTRY
from mainstay.http.entry import BODY_LIMIT, HttpEntry
from mainstay.http.fastapi import errors
from mainstay.http.wire import ASGIApp, Receive, Scope, Send

if TYPE_CHECKING:
    from mainstay.service import Service

__all__ = ["QUIET_PATHS", "body_limit", "keys", "machines", "rate_limit", "readable"]

QUIET_PATHS = monitor.PATHS

_READING = "GET, HEAD, OPTIONS"
_KEYS_TYPE = "application/jwk-set+json"  # RFC 7517, 8.5
_KEYS_SECONDS = 300

Endpoint = TypeVar("Endpoint", bound=Callable[..., object])


def machines(service: Service) -> dict[str, ASGIApp]:
    """Return the answers to `/health`, `/ready`, `/readyz`, `/healthz` and `/metrics`.

    They pass no route and no dependency and ask on threads of their own, so they answer also when
    everything that serves requests is busy.
    """
    is_shown = service.settings.metrics_enabled
    paths = monitor.PATHS if is_shown else monitor.PATHS - {"/metrics"}
    return {path: readable(partial(_asked, service, path)) for path in paths}


async def _asked(service: Service, path: str) -> Response:
    answer = await monitor.aanswer(service, path)
    if answer is None:
        raise NotFound(f"there is nothing at {path}")
    headers = {"cache-control": "no-store", "content-type": answer.content_type}
    return Response(answer.body, answer.status, headers)


def keys(service: Service) -> dict[str, ASGIApp]:
    """Return the answer to `/.well-known/jwks.json`, where tokens are signed with a private key:
    with its public half, others verify them.
    """
    if service.settings.jwt_private_key is None:
        return {}

    async def jwks() -> Response:
        headers = {"cache-control": f"public, max-age={_KEYS_SECONDS}", "content-type": _KEYS_TYPE}
        return Response(orjson.dumps(service.tokens.jwks()), headers=headers)

    return {"/.well-known/jwks.json": readable(jwks)}


def readable(answer: Callable[[], Awaitable[Response]]) -> ASGIApp:
    """Make an application of *answer*, for GET and HEAD."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            response = None
        elif scope["method"] == "GET":
            response = await answer()
        elif scope["method"] == "OPTIONS":
            response = Response(status_code=204, headers={"allow": _READING})
        else:
            response = errors.respond(Request(scope), errors.not_allowed(_READING))
        if response is not None:
            await response(scope, receive, send)

    return app


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
