"""Cookies are out of reach of other sites, unless somebody says so."""

from __future__ import annotations

import pytest
from flask import Response
from flask_login import LoginManager, UserMixin, login_user

from mainstay import Service, Settings
from mainstay.http.flask import create_app, csrf_token

SECRET = "a secret of at least thirty-two bytes"


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")  # Flask-Login's
@pytest.mark.parametrize(("env", "is_secure"), [("prod", True), ("test", False)])
def test_cookies_are_safe_unless_somebody_says_so(env: str, is_secure: bool) -> None:
    settings = Settings(env=env, service_name="shop", secret_key=SECRET, auth_required=False)
    app = create_app(Service(settings), __name__)
    app.add_url_rule("/token", view_func=csrf_token)

    @app.get("/remember")
    def remember() -> Response:
        response = app.make_response("ok")
        response.set_cookie("theme", "dark")
        response.set_cookie("open", "1", httponly=False, samesite="None", secure=True)
        return response

    @app.get("/sign-in")
    def sign_in() -> str:
        user = UserMixin()
        user.id = "7"
        login_user(user, remember=True)
        return "welcome"

    LoginManager(app)
    signed_in = app.test_client().get("/sign-in")
    for cookie in signed_in.headers.getlist("set-cookie"):
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert ("Secure" in cookie) is is_secure
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
