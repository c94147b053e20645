"""Cookies that are out of reach of scripts and of requests that other sites cause, and that leave a
browser over TLS alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Flask, Response, current_app

if TYPE_CHECKING:
    from mainstay.config import Settings

__all__ = ["SafeCookies", "protect"]


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
    """Make the cookies safe that sign somebody in: the session's, and that of Flask-Login.

    Without a `secret_key` there are no sessions.
    """
    app.config.update(
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=not settings.is_dev,
        REMEMBER_COOKIE_SAMESITE="Lax",
        REMEMBER_COOKIE_SECURE=not settings.is_dev,
    )
    if settings.secret_key is not None:
        app.secret_key = settings.secret_key.get_secret_value()
