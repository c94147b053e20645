"""Refuse what another site has a browser do in somebody's session (CSRF).

What is looked at is a request that changes something and that a cookie signs in: the session of
Flask, or what Flask-Login remembers somebody by. Other cookies, of a load balancer or of a service
on another port, sign nobody in. Of two signs that another site cannot make, one is enough:

1. The browser says that a page of ours sent it: `Sec-Fetch-Site`, or `Origin` where it sends none.
2. The token that a page of ours has: as `X-CSRF-Token`, or as the form's field
   `mainstay_csrf_token`; or that of a form of Flask-WTF.

Where `CSRFProtect` of Flask-WTF protects the application, with exemptions of its own, nothing is
looked at here.
"""

from __future__ import annotations

import secrets
import sys
from hmac import compare_digest
from typing import Any

from flask import Flask, current_app, request, session

from mainstay import context as contexts
from mainstay.config import Settings
from mainstay.errors import NotAllowed
from mainstay.http.flask.auth import login_manager
from mainstay.http.flask.marks import is_csrf_exempt

__all__ = ["check", "csrf_token", "install"]

# Flask-WTF has the field, and the name in the session, that are called `csrf_token`.
_TOKEN = "mainstay_csrf_token"
_HEADER = "X-CSRF-Token"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_OWN_PAGES = frozenset({"same-origin", "none"})


def install(app: Flask) -> None:
    """Let templates of *app* call ``csrf_token()``, unless an extension such as Flask-WTF does."""

    def names() -> dict[str, Any]:
        return {} if "csrf_token" in app.jinja_env.globals else {"csrf_token": csrf_token}

    app.context_processor(names)


def csrf_token() -> str:
    """Return the token that requests from this page must carry, the same for the whole session.

    In a template: ``<input type="hidden" name="mainstay_csrf_token" value="{{ csrf_token() }}">``,
    or ``<meta name="csrf-token" content="{{ csrf_token() }}">`` for scripts.

    Raises:
        Misconfigured: There is no `secret_key` to sign sessions with.
    """
    _settings().need("secret_key")
    token: str = session.setdefault(_TOKEN, secrets.token_urlsafe(32))
    return token


def check() -> None:
    """Pass when no other site can have caused the request at hand.

    Raises:
        NotAllowed: One can, and it would be done in somebody's session.
    """
    if request.method in _SAFE_METHODS or not _settings().csrf_enabled:
        return
    if _shows_bearer_token() or not _is_signed_in_by_cookie():
        return
    if _has_csrf_protect(current_app) or _is_exempt():
        return
    if not (_is_of_own_page() or _has_token() or _has_token_of_flask_wtf()):
        raise NotAllowed(
            "this request carries the cookie of a session, and nothing shows that a page of this "
            f"site sent it: load the page again, and send its csrf_token() as {_HEADER} or in the "
            f"form's field {_TOKEN}"
        )


def _settings() -> Settings:
    settings: Settings = current_app.extensions["mainstay"].settings
    return settings


def _has_csrf_protect(app: Flask) -> bool:
    return "csrf" in app.extensions


def _shows_bearer_token() -> bool:
    """Has a token vouched for the caller? No other site can make a browser send one."""
    context = contexts.current()
    return context is not None and context.principal is not None and bool(context.principal.token)


def _is_signed_in_by_cookie() -> bool:
    config, cookies = current_app.config, request.cookies
    if config["SESSION_COOKIE_NAME"] in cookies and session:
        return True
    has_flask_login = login_manager(current_app) is not None
    return has_flask_login and config.get("REMEMBER_COOKIE_NAME", "remember_token") in cookies


def _is_exempt() -> bool:
    marked: list[Any] = [current_app.view_functions.get(request.endpoint or "")]
    marked += [current_app.blueprints[name] for name in request.blueprints]
    return any(map(is_csrf_exempt, marked))


def _is_of_own_page() -> bool:
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        return site in _OWN_PAGES
    # Not its scheme: behind a proxy that speaks TLS for us, ours is another one.
    return origin is not None and origin.partition("://")[2].lower() == request.host.lower()


def _has_token() -> bool:
    known = session.get(_TOKEN, "")
    sent = request.headers.get(_HEADER) or request.form.get(_TOKEN, "")
    return bool(known) and compare_digest(sent.encode(), known.encode())


def _has_token_of_flask_wtf() -> bool:
    flask_wtf: Any = sys.modules.get("flask_wtf.csrf")
    if flask_wtf is None:
        return False
    field = current_app.config.get("WTF_CSRF_FIELD_NAME", "csrf_token")
    # A form with a prefix has it before the field's name.
    for sent in (value for name, value in request.form.items() if name.endswith(field)):
        try:
            flask_wtf.validate_csrf(sent)
        except ValueError:
            continue
        return True
    return False
