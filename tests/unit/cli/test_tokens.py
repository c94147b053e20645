"""`mainstay tokens issue`: a token with which a protected route can be tried."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

from mainstay.auth import Tokens
from mainstay.cli import services, tokens
from mainstay.config import Settings
from mainstay.errors import Misconfigured

SECRET = "s" * 32


@pytest.fixture
def issue(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    def run(*arguments: str, of: tuple[Settings, ...]) -> Result:
        handles = [SimpleNamespace(name=each.service_name, settings=each) for each in of]
        monkeypatch.setattr(services, "selected", lambda _service: handles)
        return CliRunner().invoke(tokens.app, ["issue", *arguments])

    return run


def bank(**values: object) -> Settings:
    return Settings(**{"env": "test", "service_name": "bank"} | values)


def test_a_token_is_believed_by_the_service_that_it_is_for(issue: Callable[..., Result]) -> None:
    settings = bank(jwt_secret_key=SECRET)
    ended = issue("--sub", "ann", "--role", "admin", "--role", "user", of=(settings,))
    assert ended.exit_code == 0
    principal = Tokens(settings).verify(ended.stdout.strip())
    assert principal.subject == "ann"
    assert principal.roles == {"admin", "user"}


def test_a_service_that_only_verifies_issues_none(issue: Callable[..., Result]) -> None:
    ended = issue("--sub", "ann", of=(bank(jwt_jwks_url="http://127.0.0.1:1/keys"),))
    assert isinstance(ended.exception, Misconfigured)
    assert "ask that one for a token" in str(ended.exception)


def test_a_service_without_a_key_says_what_to_set(issue: Callable[..., Result]) -> None:
    ended = issue("--sub", "ann", of=(bank(),))
    assert "set JWT_SECRET_KEY" in str(ended.exception)


def test_of_several_services_one_has_to_be_named(issue: Callable[..., Result]) -> None:
    ended = issue("--sub", "ann", of=(bank(), bank(service_name="shop")))
    assert "--service, one of bank, shop" in str(ended.exception)
