"""What a view says of itself, for those who look at it from outside: edge and document.

Decorators that use `functools.wraps` pass it on, whatever their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flask import Blueprint

__all__ = [
    "BODY_LIMIT",
    "body_limit",
    "body_limit_of",
    "csrf_exempt",
    "header_of",
    "is_csrf_exempt",
    "needs_token",
    "takes_header",
]

BODY_LIMIT = "__mainstay_body_limit__"
_TOKEN = "__mainstay_needs_token__"
_HEADER = "__mainstay_header__"
_CSRF_EXEMPT = "__mainstay_csrf_exempt__"

View = TypeVar("View", bound=Callable[..., Any])
Exempt = TypeVar("Exempt", bound=Callable[..., Any] | Blueprint)


def body_limit(limit_bytes: int) -> Callable[[View], View]:
    """Let the decorated view read a body of up to *limit_bytes*, instead of the service's
    `body_limit_bytes`::

        @app.post("/images")
        @body_limit(20 * 1024 * 1024)
        def upload() -> str: ...
    """
    if limit_bytes < 1:
        raise ValueError("a body limit is at least one byte")
    return _marking(BODY_LIMIT, limit_bytes)


def body_limit_of(view: object) -> int:
    """Return what *view* takes, where it says so; else 0."""
    limit: int = getattr(view, BODY_LIMIT, 0)
    return limit


def csrf_exempt(view: Exempt) -> Exempt:
    """Let other sites send requests to the decorated view in the session of who looks at them::

        @app.post("/webhook")
        @csrf_exempt
        def webhook() -> str: ...

    ``csrf_exempt(blueprint)`` does so for all views of a blueprint, and of those inside of it.
    """
    setattr(view, _CSRF_EXEMPT, True)
    return view


def is_csrf_exempt(view: object) -> bool:
    return bool(getattr(view, _CSRF_EXEMPT, False))


def needs_token(view: View) -> View:
    """Say that *view*, or what a parameter is filled with, is for those who show who they are."""
    return _marking(_TOKEN, True)(view)


def is_for_known(view: object) -> bool:
    return bool(getattr(view, _TOKEN, False))


def takes_header(documented: Mapping[str, Any]) -> Callable[[View], View]:
    """Say that what the decorated function does depends on a header.

    Args:
        documented: The parameter, as OpenAPI has it.
    """
    return _marking(_HEADER, documented)


def header_of(function: object) -> Mapping[str, Any] | None:
    """Return the header that *function* looks at, if it does."""
    documented: Mapping[str, Any] | None = getattr(function, _HEADER, None)
    return documented


def _marking(name: str, value: object) -> Callable[[View], View]:
    def mark(view: View) -> View:
        setattr(view, name, value)
        return view

    return mark
