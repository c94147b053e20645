"""The usual stack of middlewares: an id, metrics and a JSON line a request, a library for each.

asgi-correlation-id and prometheus-fastapi-instrumentator as their READMEs have it, structlog with
the id bound.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import structlog
from asgi_correlation_id import CorrelationIdMiddleware
from asgi_correlation_id.context import correlation_id
from fastapi import FastAPI, Request, Response
from prometheus_fastapi_instrumentator import Instrumentator

from benchmarks.lanes.http_routes import add_routes
from benchmarks.peers.usual_logs import configure_logs

__all__ = ["app", "with_usual_stack"]

configure_logs()
logger = structlog.get_logger()


def with_usual_stack(app: FastAPI) -> FastAPI:
    """Add the middlewares, the outermost last."""

    @app.middleware("http")
    async def log_request(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(correlation_id=correlation_id.get())
        started = time.perf_counter()
        response = await call_next(request)
        logger.info(
            "request",
            method=request.method,
            path=request.url.path,
            status=response.status_code,
            duration_ms=round((time.perf_counter() - started) * 1000, 3),
        )
        return response

    Instrumentator().instrument(app).expose(app)
    app.add_middleware(CorrelationIdMiddleware)
    return app


app = FastAPI()
add_routes(app)
with_usual_stack(app)
