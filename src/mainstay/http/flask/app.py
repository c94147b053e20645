"""Make a Flask application that is a service: its stations, limits, errors, health and pages."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Flask, Response
from flask.logging import default_handler
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RoutingException

from mainstay.config import Settings
from mainstay.http import wsgi
from mainstay.http.cors import Cors
from mainstay.http.flask import auth, commands, cookies, csrf, discovery, docs, errors, routes
from mainstay.http.flask.json import Json
from mainstay.http.flask.work import replayed
from mainstay.http.rules import placed
from mainstay.http.stores import service_of, shared_counts, store_of
from mainstay.http.tokens import check_keys
from mainstay.http.work import Replay
from mainstay.idempotency import Store
from mainstay.limits import RateLimits, Rule
from mainstay.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse

    from mainstay.context import Principal
    from mainstay.http.environ import Environ

__all__ = ["create_app"]


def create_app(
    service: Service | Settings | type[Settings],
    import_name: str = "",
    *,
    title: str = "",
    version: str = "",
    needs: Sequence[str] = (),
    public: Sequence[str] = ("/",),
    principal: Callable[[], Principal | None] | None = None,
    in_flight_limit: int = wsgi.IN_FLIGHT_LIMIT,
    idempotency_store: Store[Any] | None = None,
    rate_limits: RateLimits | None = None,
    process: str = "api",
    **options: Any,
) -> Flask:
    """Return a Flask application that passes every request through the stations.

    It is a plain ``Flask``: blueprints, error handlers, hooks, templates and extensions are added
    as usual, and stand inside of the stations; so does what is put around its ``wsgi_app``.

    Where `route/api.py` lies beside the module that calls, in its package or as a module of the
    top level, its function ``register_blueprints(app)`` is called.

    Args:
        service: The service, or its settings alone, or their class. Settings alone that name a
            database make a service that holds it, with the models that `MODEL_DISCOVERY_PATHS`
            names.
        import_name: As ``Flask(__name__)`` has it; the module that calls, by default.
        title: For the documentation; the service's name by default.
        version: For the documentation; the service's version by default.
        needs: Settings that it cannot do without, such as `secret_key` for pages.
        public: Paths that need no token, and no login, where `auth_required` asks for one:
            ``("/", "/register", "/help/*")``. One that ends in ``*`` stands for all below it, and
            ``status`` is below `api_primary_path`. Health, metrics, documentation and static files
            need none, nor does the page on which Flask-Login lets people sign in.
        principal: Says who has signed in to the session of the request at hand, if anybody has,
            instead of Flask-Login's `current_user`, who has no roles. It is asked after the
            functions that run before a request, and not where a token vouches for the caller.
        in_flight_limit: Requests that this process works on at a time; beyond, 503. Each takes a
            thread: give the server some more than this, for those who ask how it is.
        idempotency_store: Where keys are kept, instead of what `idempotency_store` says.
        rate_limits: Who counts for `rate_limit`; in Redis where there is one, else here.
        process: What this process is called in the log.
        options: Whatever else ``Flask`` takes.

    Raises:
        Misconfigured: The settings do not fit; the message names each of them. A command of
            Flask's ends with it, and with exit code 78.
    """
    import_name = import_name or sys._getframe(1).f_globals["__name__"]
    with commands.refusing():
        service = service_of(service)
        settings = service.settings
        if principal is None and settings.secret_key is None:
            check_keys(service)  # nobody can sign in
        if needs:
            settings.need(*needs)
    folder = f"/{settings.api_primary_path}" if settings.api_primary_path else ""
    title, version = title or service.name, version or settings.version
    app = _Application(import_name, **options)
    app.extensions["mainstay"] = service
    # Its own handler would write what the service's logs write.
    app.logger.removeHandler(default_handler)
    errors.install(app)
    app.register_error_handler(Replay, replayed)
    cookies.protect(app, settings)
    csrf.install(app)
    auth.install(app, principal)

    def check_logins() -> None:
        if not auth.has_logins(app):
            check_keys(service)

    static = (f"{app.static_url_path}/*",) if app.has_static_folder else ()
    rules = wsgi.Rules(
        own={
            **routes.machines(service),
            **routes.keys(service),
            **docs.pages(app, folder, title=title, version=version),
        },
        quiet=routes.QUIET_PATHS,
        public=(*placed(public, folder), *static),
        in_flight_limit=in_flight_limit,
        rate=None if settings.rate_limit is None else Rule.parse(settings.rate_limit),
        limits=rate_limits or RateLimits(shared_counts(service)),
        idempotency=idempotency_store or store_of(service),
        match=routes.matching(app),
        body_limit=routes.body_limits(app),
        takes_login=auth.taking_logins(app),
        check=check_logins,
        cors=Cors(settings.cors_allow_origins) if settings.cors_allow_origins else None,
    )
    app.stations = wsgi.Edge(partial(Flask.__call__, app), service, rules, process=process)
    commands.install(app, service)
    discovery.register_blueprints(app, service.logs)
    return app


class _Application(Flask):
    """Flask behind the stations: they wrap its own `__call__`, so nothing stands outside."""

    json_provider_class = Json
    response_class = cookies.SafeCookies
    stations: wsgi.Edge

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return self.stations(environ, start_response)

    def full_dispatch_request(self, *context: Any) -> Response:
        auth.begin()
        return super().full_dispatch_request(*context)

    def dispatch_request(self, *context: Any) -> Any:
        # After the hooks that run before a request, and before any view.
        answer = auth.check()
        if answer is not None:
            return answer
        csrf.check()
        return super().dispatch_request(*context)

    def make_response(self, rv: Any) -> Response:
        # What no handler has answered comes here as it was raised.
        if isinstance(rv, HTTPException) and not isinstance(rv, RoutingException):
            rv = errors.of_framework(rv)
        return super().make_response(rv)

    def handle_user_exception(self, *given: Any) -> Any:
        # Before any handler of the author's answers it.
        errors.undo_work()
        return super().handle_user_exception(*given)

    def log_exception(self, exc_info: Any) -> None:
        # Flask would log it a second time; the request's log line has the stack.
        errors.undo_work()
        errors.note(exc_info[1])

    def make_default_options_response(self) -> Response:
        response = super().make_default_options_response()
        response.status_code = 204
        response.headers["allow"] = errors.allowed(set(response.allow))
        return response
