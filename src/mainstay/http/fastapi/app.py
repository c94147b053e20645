"""Make a FastAPI application that is a service: its stations, limits, errors, health and pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware

from mainstay.config import Settings
from mainstay.http import asgi, cors
from mainstay.http.fastapi import docs, errors, routes
from mainstay.http.fastapi.openapi import PROBLEM_RESPONSES, add_problem_schema
from mainstay.http.fastapi.work import replayed
from mainstay.http.lifespan import lifespan
from mainstay.http.rules import placed
from mainstay.http.stores import service_of, shared_counts, store_of
from mainstay.http.tokens import check_keys
from mainstay.http.wire import ASGIApp
from mainstay.http.work import Replay
from mainstay.idempotency import Store
from mainstay.limits import RateLimits, Rule
from mainstay.service import Service

__all__ = ["create_app"]

Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]

_NO_TELEMETRY: dict[str, Any] = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}


def create_app(
    service: Service | Settings | type[Settings],
    *,
    title: str = "",
    version: str = "",
    needs: Sequence[str] = (),
    public: Sequence[str] = ("/",),
    in_flight_limit: int = 1_000,
    socket_limit: int = 1_000,
    idempotency_store: Store[Any] | None = None,
    rate_limits: RateLimits | None = None,
    process: str = "api",
    root_path: str = "",
    lifespan: Lifespan | None = None,
    responses: Mapping[int | str, dict[str, Any]] | None = None,
    **options: Any,
) -> FastAPI:
    """Return a FastAPI application that passes every request through the stations.

    It is a plain ``FastAPI``: routers, dependencies, exception handlers and middleware are added
    as usual, and stand inside of the stations.

    Args:
        service: The service, or its settings alone, or their class.
        title: For the documentation; the service's name by default.
        version: For the documentation; the service's version by default.
        needs: Settings that it cannot do without, such as `secret_key` for pages.
        public: Paths that need no token where `auth_required` asks for one; one that ends in
            ``*`` stands for all below it, and ``status`` is below `api_primary_path`. Health,
            metrics and documentation need none.
        in_flight_limit: Requests that this process works on at a time; beyond, 503.
        socket_limit: WebSockets that this process has open at a time; beyond, 503.
        idempotency_store: Where keys are kept, instead of what `idempotency_store` says.
        rate_limits: Who counts for `rate_limit`; in Redis where there is one, else here.
        process: What this process is called in the log.
        root_path: The path that a proxy serves it below, ``/shop``, whether the proxy takes it off
            or not; where the server is told of it (``uvicorn --root-path``), nothing is needed.
        lifespan: The author's own; it runs inside of the service's. Where the application is
            mounted in another one, that has to enter ``app.router.lifespan_context(app)``.
        responses: Answers that every operation documents, besides the problems.
        options: Whatever else ``FastAPI`` takes.

    Raises:
        Misconfigured: The settings do not fit; the message names each of them.
    """
    service = service_of(service)
    settings = service.settings
    check_keys(service)
    if needs:
        settings.need(*needs)
    if root_path:
        root_path = f"/{root_path.strip('/')}"
    folder = f"/{settings.api_primary_path}" if settings.api_primary_path else ""
    app = _Application(
        title=title or service.name,
        version=version or settings.version,
        debug=False,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # served beside the pages: a route more would be looked at every time
        lifespan=_lifespan(service, process, lifespan),
        responses={**PROBLEM_RESPONSES, **(responses or {})},
        # One server span a request: ours.
        **{"telemetry": _NO_TELEMETRY, **options},
    )
    app.state.service = service
    app.root_path = root_path
    errors.install(app)
    app.add_exception_handler(Replay, replayed)
    rule = None if settings.rate_limit is None else Rule.parse(settings.rate_limit)
    rules = asgi.Rules(
        own={**routes.machines(service), **routes.keys(service), **docs.pages(app, folder)},
        quiet=routes.QUIET_PATHS,
        public=placed(public, folder),
        in_flight_limit=in_flight_limit,
        socket_limit=socket_limit,
        root_path=root_path,
        rate=rule,
        limits=rate_limits or RateLimits(shared_counts(service)),
        idempotency=idempotency_store or store_of(service),
        middleware=_cors(settings.cors_allow_origins) if settings.cors_allow_origins else None,
    )
    app.stations = asgi.Edge(partial(FastAPI.__call__, app), service, rules)
    return app


class _Application(FastAPI):
    """FastAPI behind the stations: they wrap its own `__call__`, so nothing stands outside."""

    stations: ASGIApp

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.stations(scope, receive, send)

    def build_middleware_stack(self) -> Any:
        # The outermost layer answers what nobody else has answered, and so do the stations: twice
        # is once too many, and costs two more calls for every message of every answer.
        stack = super().build_middleware_stack()
        if isinstance(stack, ServerErrorMiddleware) and stack.handler is errors.of_anything:
            return stack.app
        return stack

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = add_problem_schema(super().openapi())
        return self.openapi_schema


def _lifespan(
    service: Service, process: str, author: Lifespan | None
) -> Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """Put the author's lifespan inside the service's."""

    @asynccontextmanager
    async def lifespan_of(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        inside = nullcontext() if author is None else author(app)
        async with lifespan(service, partial(service.start, process), inside) as state:
            yield state or {}

    return lifespan_of


def _cors(origins: Sequence[str]) -> Callable[[ASGIApp], ASGIApp]:
    def wrap(app: ASGIApp) -> ASGIApp:
        return CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=cors.METHODS,
            allow_headers=cors.ASKED_HEADERS,
            expose_headers=cors.SHOWN_HEADERS,
        )

    return wrap
