"""Pages and their cookies: out of reach of other sites, unless somebody says so."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask, Response, render_template_string, session
from flask.testing import FlaskClient

from mainstay import Service, Settings
from mainstay.http.flask import create_app, csrf_token

SECRET = "a secret of at least thirty-two bytes"


def made(**given: Any) -> Flask:
    settings = Settings(**{"env": "test", "service_name": "shop", "secret_key": SECRET, **given})
    app = create_app(Service(settings), __name__)

    @app.get("/page")
    def page() -> str:
        return render_template_string('<meta name="csrf-token" content="{{ csrf_token() }}">')

    @app.get("/token")
    def token() -> str:
        return csrf_token()

    @app.post("/change")
    def change() -> str:
        return f"changed by {session.get('name', 'somebody')}"

    @app.get("/remember")
    def remember() -> Response:
        response = app.make_response("ok")
        response.set_cookie("theme", "dark")
        response.set_cookie("open", "1", httponly=False, samesite="None", secure=True)
        return response

    return app


@pytest.fixture
def client() -> FlaskClient:
    return made().test_client()


def test_a_change_with_cookies_needs_the_token_of_a_page(client: FlaskClient) -> None:
    token = client.get("/token").text
    refused = client.post("/change")
    assert refused.status_code == 403
    assert "X-CSRF-Token" in refused.json["detail"]  # type: ignore[index]
    assert client.post("/change", headers={"X-CSRF-Token": token}).status_code == 200
    assert client.post("/change", data={"csrf_token": token}).status_code == 200


@pytest.mark.parametrize("token", ["", "x", "é", "x" * 10_000])
def test_another_token_is_none(client: FlaskClient, token: str) -> None:
    client.get("/token")
    assert client.post("/change", data={"csrf_token": token}).status_code == 403


def test_the_token_of_another_session_is_none(client: FlaskClient) -> None:
    other = client.application.test_client()
    token = other.get("/token").text
    client.get("/token")
    assert client.post("/change", headers={"X-CSRF-Token": token}).status_code == 403


def test_a_cookie_of_anybodys_is_enough_to_ask_for_it(client: FlaskClient) -> None:
    client.set_cookie("remember_me", "user-7")
    assert client.post("/change").status_code == 403


def test_the_token_is_the_same_for_a_session_and_in_its_templates(client: FlaskClient) -> None:
    token = client.get("/token").text
    assert client.get("/page").text == f'<meta name="csrf-token" content="{token}">'


def test_without_cookies_there_is_nothing_to_misuse(client: FlaskClient) -> None:
    assert client.post("/change").status_code == 200


def test_reading_needs_no_token(client: FlaskClient) -> None:
    client.get("/token")
    assert client.get("/page").status_code == 200
    assert client.options("/change").status_code == 204


def test_a_bearer_token_needs_no_other() -> None:
    app = made(jwt_secret_key=SECRET)
    client = app.test_client()
    client.get("/token")
    bearer = app.extensions["mainstay"].tokens.issue("user-7")
    headers = {"Authorization": f"Bearer {bearer}"}
    assert client.post("/change", headers=headers).status_code == 200


def test_a_browsers_own_authorization_is_no_bearer_token(client: FlaskClient) -> None:
    client.get("/token")
    assert client.post("/change", headers={"Authorization": "Basic YTpi"}).status_code == 403


def test_a_service_without_pages_asks_for_nothing() -> None:
    client = made(secret_key=None).test_client()
    client.set_cookie("theme", "dark")
    assert client.post("/change").status_code == 200
    assert client.get("/token").status_code == 500


@pytest.mark.parametrize(("env", "is_secure"), [("prod", True), ("test", False)])
def test_cookies_are_safe_unless_somebody_says_so(env: str, is_secure: bool) -> None:
    app = made(env=env, auth_required=False)
    answer = app.test_client().get("/remember")
    theme, opened = answer.headers.getlist("set-cookie")
    assert "HttpOnly" in theme
    assert "SameSite=Lax" in theme
    assert ("Secure" in theme) is is_secure
    assert "HttpOnly" not in opened
    assert "SameSite=None" in opened
    session_cookie = app.test_client().get("/token").headers["set-cookie"]
    assert "HttpOnly" in session_cookie
    assert "SameSite=Lax" in session_cookie
    assert ("Secure" in session_cookie) is is_secure
