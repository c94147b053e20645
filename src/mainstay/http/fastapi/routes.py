"""The routes that every service has, and what a route may say of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response

from mainstay import limits
from mainstay.health import Report
from mainstay.http.asgi import ENTRY
from mainstay.http.entry import BODY_LIMIT, HttpEntry
from mainstay.http.fastapi import errors
from mainstay.http.wire import ASGIApp, Receive, Scope, Send

if TYPE_CHECKING:
    from mainstay.service import Service

__all__ = ["QUIET_PATHS", "body_limit", "machines", "rate_limit", "readable"]

QUIET_PATHS = frozenset({"/health", "/ready", "/readyz", "/healthz", "/metrics"})

_READING = "GET, HEAD, OPTIONS"

Endpoint = TypeVar("Endpoint", bound=Callable[..., object])


def machines(service: Service) -> dict[str, ASGIApp]:
    """Return the answers to `/health`, `/ready`, `/readyz`, `/healthz` and `/metrics`.

    They pass no route and no dependency and ask on threads of their own, so they answer also when
    everything that serves requests is busy.
    """

    async def health() -> Response:
        return _report(await service.health.ahealth())

    async def ready() -> Response:
        return _report(await service.health.aready())

    async def alive() -> Response:
        return _report(service.health.alive())

    async def metrics() -> Response:
        body, content_type = await asyncio.to_thread(service.metrics.exposition)
        return Response(body, headers={"content-type": content_type})

    answers = {"/health": health, "/ready": ready, "/readyz": ready, "/healthz": alive}
    if service.settings.metrics_enabled:
        answers["/metrics"] = metrics
    return {path: readable(answer) for path, answer in answers.items()}


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


def _report(report: Report) -> Response:
    return Response(
        orjson.dumps(report.as_dict()),
        report.http_status,
        {"cache-control": "no-store"},
        "application/json",
    )
