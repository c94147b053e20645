"""Which token does a request show?

`Authorization: Bearer …` is what a client shows; `X-Mainstay-Token` is what another service of
ours passes on for whom it works. A token that is there and wrong is refused, also where none
would be needed.
"""

from __future__ import annotations

from mainstay.auth import ACCESS, WORK, Tokens
from mainstay.context import Principal
from mainstay.errors import NotAuthenticated

__all__ = ["authenticate", "bearer"]


def bearer(authorization: str) -> str | None:
    """Return the token in an `Authorization` header; ``None`` where it has another scheme.

    Raises:
        NotAuthenticated: It says `Bearer` and nothing else.
    """
    scheme, _, token = authorization.strip().partition(" ")
    if scheme.lower() != "bearer":
        return None
    token = token.strip()
    if not token:
        raise NotAuthenticated("the Authorization header holds no token after 'Bearer'")
    return token


async def authenticate(
    tokens: Tokens, authorization: str | None, passed_on: str | None
) -> Principal | None:
    """Return whom the request's token vouches for; ``None`` without a token.

    Raises:
        NotAuthenticated: The token is wrong; its message helps nobody to forge one.
        Unavailable: The keys to verify it could not be fetched.
    """
    if authorization is not None and (token := bearer(authorization)) is not None:
        return await tokens.averify(token, typ=ACCESS)
    if passed_on is not None:
        return await tokens.averify(passed_on, typ=WORK)
    return None
