"""Who is asking? The edge has verified the token by then."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Annotated, ParamSpec, TypeVar

from mainstay import context as contexts
from mainstay.context import Principal
from mainstay.errors import NotAllowed
from mainstay.http.exchange import no_token
from mainstay.http.flask.marks import needs_token

__all__ = ["CurrentUser", "get_current_user", "require_role"]

P = ParamSpec("P")
R = TypeVar("R")


@needs_token
def get_current_user() -> Principal:
    """Return who asks.

    Raises:
        NotAuthenticated: Nobody has vouched for the caller; also where the settings ask for no
            token, because this view does.
    """
    context = contexts.current()
    if context is None or context.principal is None:
        raise no_token()
    return context.principal


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
