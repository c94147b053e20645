"""What a view says of itself, for those who look at it from outside: edge and document.

Decorators that use `functools.wraps` pass it on, whatever their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

__all__ = ["BODY_LIMIT", "body_limit", "body_limit_of", "header_of", "needs_token", "takes_header"]

BODY_LIMIT = "__mainstay_body_limit__"
_TOKEN = "__mainstay_needs_token__"
_HEADER = "__mainstay_header__"

View = TypeVar("View", bound=Callable[..., Any])


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
