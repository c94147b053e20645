"""``mainstay tokens``: tokens to try protected routes with."""

from __future__ import annotations

from typing import Annotated

import typer

from mainstay.errors import Misconfigured

__all__ = ["app"]

app = typer.Typer(name="tokens", help="Issue tokens to try out.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Issue tokens to try out."""


@app.command("issue")
def issue(
    sub: Annotated[str, typer.Option(help="Whom it vouches for: a stable id.")],
    role: Annotated[
        list[str] | None, typer.Option(help="What that one may act as; may be repeated.")
    ] = None,
    life_seconds: Annotated[
        int | None,
        typer.Option(
            min=1, max=86_400, help="Until it expires; JWT_ACCESS_TTL_SECONDS unless told."
        ),
    ] = None,
    service: Annotated[
        str | None,
        typer.Option(help="The service of mainstay.toml whose key signs it, and that it is for."),
    ] = None,
) -> None:
    """Print a token, signed with the service's own key.

    curl -H "Authorization: Bearer $(mainstay tokens issue --sub me)" http://127.0.0.1:8000/…
    """
    from mainstay.auth import Tokens
    from mainstay.cli.services import selected

    found = selected(service)
    if len(found) > 1:
        names = ", ".join(each.name for each in found)
        raise Misconfigured(f"say for which service: --service, one of {names}")
    tokens = Tokens(found[0].settings)
    if tokens.can_verify and not tokens.can_issue:
        raise Misconfigured(
            f"{found[0].name} verifies the tokens of another issuer (JWT_JWKS_URL) and signs none: "
            "ask that one for a token"
        )
    typer.echo(tokens.issue(sub, roles=role or (), life_seconds=life_seconds))
