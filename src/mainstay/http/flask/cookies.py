"""Can another site use a browser's cookies here? Not unless somebody says so.

Cookies are out of reach of scripts and of requests that other sites cause, and leave a browser
over TLS alone. A request that changes something and carries cookies must also carry the token that
one of our pages has given the browser: as `X-CSRF-Token`, or as the form's field `csrf_token`. A
request that shows a bearer token needs none, since no other site can make a browser send that.
"""

from __future__ import annotations

import secrets
from hmac import compare_digest
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, current_app, request, session

from mainstay import context as contexts
from mainstay.errors import NotAllowed

if TYPE_CHECKING:
    from mainstay.config import Settings

__all__ = ["SafeCookies", "csrf_token", "protect"]

_TOKEN = "csrf_token"
_HEADER = "X-CSRF-Token"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_OWNER = "mainstay.settings"


class SafeCookies(Response):
    """A response whose cookies are safe unless the author says otherwise: `HttpOnly`,
    `SameSite=Lax`, and outside dev and test `Secure`.
    """

    def set_cookie(self, key: str, value: str = "", *others: Any, **options: Any) -> None:
        options.setdefault("httponly", True)
        options.setdefault("samesite", "Lax")
        options.setdefault("secure", current_app.config["SESSION_COOKIE_SECURE"])
        super().set_cookie(key, value, *others, **options)


def protect(app: Flask, settings: Settings) -> None:
    """Make sessions safe, and look for the token where a request carries cookies.

    Without a `secret_key` there are no sessions, and so no pages that could give a token.
    """
    app.extensions[_OWNER] = settings
    app.config.update(
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=not settings.is_dev,
    )
    app.context_processor(lambda: {_TOKEN: csrf_token})
    if settings.secret_key is not None:
        app.secret_key = settings.secret_key.get_secret_value()
        app.before_request(_check)


def csrf_token() -> str:
    """Return the token that requests from this page must carry, the same for the whole session.

    In a template: ``<input type="hidden" name="csrf_token" value="{{ csrf_token() }}">``, or
    ``<meta name="csrf-token" content="{{ csrf_token() }}">`` for scripts.

    Raises:
        Misconfigured: There is no `secret_key` to sign sessions with.
    """
    current_app.extensions[_OWNER].need("secret_key")
    token: str = session.setdefault(_TOKEN, secrets.token_urlsafe(32))
    return token


def _check() -> None:
    if request.method in _SAFE_METHODS or "HTTP_COOKIE" not in request.environ:
        return
    context = contexts.current()
    if context is not None and context.principal is not None:
        return
    sent = request.headers.get(_HEADER) or request.form.get(_TOKEN, "")
    known = session.get(_TOKEN, "")
    if not known or not compare_digest(sent.encode(), known.encode()):
        raise NotAllowed(
            f"this request carries cookies, and not the token of one of our pages: load the page "
            f"again, and send its csrf_token() as {_HEADER} or in the form's field {_TOKEN}"
        )
