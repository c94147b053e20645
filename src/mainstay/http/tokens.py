"""Which token does a request show?

`Authorization: Bearer …` is what a client shows; `X-Mainstay-Token` is what another service of
ours passes on for whom it works. A token that is there and wrong is refused, also where none
would be needed.
"""

from __future__ import annotations

from mainstay.auth import ACCESS, WORK, Tokens
from mainstay.context import Principal
from mainstay.errors import Misconfigured, NotAuthenticated
from mainstay.service import Service

__all__ = ["authenticate", "bearer", "check_keys", "verify"]


def check_keys(service: Service) -> None:
    """Pass when tokens can be verified, or none are asked for.

    Raises:
        Misconfigured: Every request needs a token that nobody could look at.
    """
    if service.settings.auth_required and not service.tokens.can_verify:
        raise Misconfigured(
            "every request needs a token, and there is no key to verify one with: set one of "
            "JWT_SECRET_KEY, JWT_PRIVATE_KEY and JWT_JWKS_URL, or APP_AUTH_REQUIRED=false; on "
            "Flask, a login does too: by Flask-Login, or create_app(principal=…)"
        )


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


def verify(tokens: Tokens, authorization: str | None, passed_on: str | None) -> Principal | None:
    """Return whom the request's token vouches for; ``None`` without a token.

    Raises:
        NotAuthenticated: The token is wrong; its message helps nobody to forge one.
        Unavailable: The keys to verify it could not be fetched.
    """
    shown = _shown(authorization, passed_on)
    return None if shown is None else tokens.verify(shown[0], typ=shown[1])


async def authenticate(
    tokens: Tokens, authorization: str | None, passed_on: str | None
) -> Principal | None:
    """As :func:`verify`, without stopping the event loop."""
    shown = _shown(authorization, passed_on)
    return None if shown is None else await tokens.averify(shown[0], typ=shown[1])


def _shown(authorization: str | None, passed_on: str | None) -> tuple[str, str] | None:
    """Return the token that is to be looked at, and of which kind it has to be."""
    if authorization is not None and (token := bearer(authorization)) is not None:
        return token, ACCESS
    return None if passed_on is None else (passed_on, WORK)
