"""Who is asking? The edge has verified a token by then; a login is looked at when it is needed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, ParamSpec, TypeVar

from flask import Flask, current_app, request
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from mainstay import context as contexts
from mainstay.context import Principal
from mainstay.errors import NotAllowed
from mainstay.http.environ import Environ
from mainstay.http.exchange import no_token
from mainstay.http.flask.marks import needs_token
from mainstay.http.flask.routes import route_of
from mainstay.http.problems import MEDIA_TYPE
from mainstay.http.wsgi import ENTRY, WsgiEntry

__all__ = [
    "CurrentUser",
    "begin",
    "check",
    "get_current_user",
    "has_logins",
    "install",
    "known",
    "login_manager",
    "require_role",
    "taking_logins",
]

P = ParamSpec("P")
R = TypeVar("R")

_PRINCIPAL = "mainstay.principal"
_KINDS = (MEDIA_TYPE, "application/json", "text/html")
"""What a refusal may be, the first where a client takes any."""


def install(app: Flask, principal: Callable[[], Principal | None] | None) -> None:
    """Let *principal* say who has signed in, where it is given; else Flask-Login does."""
    app.extensions[_PRINCIPAL] = principal


@needs_token
def get_current_user() -> Principal:
    """Return who asks: who a token vouches for, else who has signed in.

    Raises:
        NotAuthenticated: Nobody; also where the settings ask for nobody, because this view does.
    """
    principal = known()
    if principal is None:
        raise no_token(takes_logins=has_logins(current_app))
    return principal


CurrentUser = Annotated[Principal, get_current_user]
"""``user: CurrentUser`` in an operation: who asks, or 401."""


def require_role(*roles: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let the decorated view be called by who has any of *roles*, and answer 403 to others."""
    needed = frozenset(roles)
    named = " or ".join(repr(role) for role in roles)

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @needs_token
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            if not needed & get_current_user().roles:
                raise NotAllowed(f"this needs the role {named}, which you do not have")
            return view(*args, **kwargs)

        return guarded

    return decorate


def has_logins(app: Flask) -> bool:
    """Does anything say who has signed in?"""
    return app.extensions.get(_PRINCIPAL) is not None or login_manager(app) is not None


def taking_logins(app: Flask) -> Callable[[Environ], bool]:
    """Return what tells whether :func:`check` will look at a request, before anything is done."""

    def takes_login(environ: Environ) -> bool:
        if not has_logins(app):
            return False
        # What an author has put around `wsgi_app` may answer without asking who it is.
        if "wsgi_app" not in vars(app):
            return True
        return route_of(app, environ) is not None and not _is_mounted_path(app.wsgi_app, environ)

    return takes_login


def _is_mounted_path(outermost: Any, environ: Environ) -> bool:
    """Is the path below one where an application is mounted in this one?"""
    path, around = environ.get("PATH_INFO", ""), outermost
    while around is not None:
        if isinstance(around, DispatcherMiddleware) and any(
            path == mount or path.startswith(f"{mount}/") for mount in around.mounts
        ):
            return True
        around = getattr(around, "app", None)
    return False


def begin() -> None:
    """From now on the application answers by itself: whatever comes is :func:`check`'s, or that of
    a function of the author's that runs before a request.
    """
    entry: WsgiEntry | None = request.environ.get(ENTRY)
    if entry is not None:
        entry.awaits_login = False


def check() -> Any:
    """Pass where the request at hand needs nobody, or somebody is known.

    Returns:
        Where to sign in, for a browser, if Flask-Login knows that; else nothing.

    Raises:
        NotAuthenticated: Nobody is.
    """
    entry: WsgiEntry | None = request.environ.get(ENTRY)
    if entry is None or not entry.needs_token or known() is not None or _is_static_file():
        return None
    manager = login_manager(current_app)
    if manager is not None:
        pages = {manager.login_view, *manager.blueprint_login_views.values()} - {None}
        if _is_one_of(pages):
            return None
        leads_there = bool(pages) or manager.unauthorized_callback is not None
        if leads_there and request.accept_mimetypes.best_match(_KINDS) == "text/html":
            return manager.unauthorized()
    raise no_token(takes_logins=True)


def known() -> Principal | None:
    """Return who asks, if anybody is known: who a token vouches for, else who has signed in."""
    context = contexts.current()
    if context is not None and context.principal is not None:
        return context.principal
    principal = _signed_in()
    if principal is not None:
        contexts.identify(principal)
    return principal


def _signed_in() -> Principal | None:
    ask: Callable[[], Principal | None] | None = current_app.extensions.get(_PRINCIPAL)
    if ask is not None:
        return ask()
    if login_manager(current_app) is None:
        return None
    current_user: Any = sys.modules["flask_login"].current_user  # no dependency of ours
    return Principal(str(current_user.get_id())) if current_user.is_authenticated else None


def login_manager(app: Flask) -> Any:
    """Return Flask-Login's manager, where *app* has one."""
    return getattr(app, "login_manager", None)


def _is_static_file() -> bool:
    """Is it a file of a blueprint's? Those of the application are public, too."""
    name = request.blueprint or ""
    blueprint = current_app.blueprints.get(name)
    is_one = request.endpoint == f"{name}.static"
    return is_one and blueprint is not None and blueprint.has_static_folder


def _is_one_of(views: set[str]) -> bool:
    """Is the page that is asked for one of *views*, whatever the method?"""
    asked = request.url_rule
    if asked is None:
        return False
    known = current_app.url_map.iter_rules()
    return asked.rule in views or any(
        rule.endpoint in views and rule.rule == asked.rule for rule in known
    )
