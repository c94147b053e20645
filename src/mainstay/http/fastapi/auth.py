"""Who is asking, as a dependency; the edge has verified the token by then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from mainstay import context as contexts
from mainstay.context import Principal
from mainstay.errors import NotAllowed, NotAuthenticated

__all__ = ["CurrentUser", "get_current_user", "require_role"]

# It verifies nothing: it shows the scheme in the OpenAPI document.
_bearer = HTTPBearer(auto_error=False, scheme_name="bearer", bearerFormat="JWT")


async def get_current_user(
    _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None,
) -> Principal:
    """Return who asks.

    Raises:
        NotAuthenticated: Nobody has vouched for the caller; also where the settings ask for no
            token, because this route does.
    """
    context = contexts.current()
    if context is None or context.principal is None:
        raise NotAuthenticated("this needs a token: send it as Authorization: Bearer …")
    return context.principal


CurrentUser = Annotated[Principal, Depends(get_current_user)]
"""``user: CurrentUser`` in a handler: who asks, or 401."""


def require_role(*roles: str) -> Callable[[Principal], Principal]:
    """Return a dependency that lets pass who has any of *roles*, and answers 403 to others."""
    needed = frozenset(roles)
    named = " or ".join(repr(role) for role in roles)

    def check(user: CurrentUser) -> Principal:
        if not needed & user.roles:
            raise NotAllowed(f"this needs the role {named}, which you do not have")
        return user

    return check
