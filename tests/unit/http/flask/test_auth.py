"""A login counts as a token does: Flask-Login's, or what the author says of the session."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask, Response, redirect, request, session
from flask.testing import FlaskClient
from flask_login import LoginManager, UserMixin, login_required, login_user, logout_user
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from mainstay import Service, Settings
from mainstay.context import Principal
from mainstay.errors import Misconfigured, NotAuthenticated
from mainstay.http.bridge import Bridge
from mainstay.http.flask import (
    CurrentUser,
    create_app,
    get_current_user,
    idempotent,
    operation,
    require_role,
)
from mainstay.resources.memory import MemoryStore

SECRET = "a secret of at least thirty-two bytes"
PAGE = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
HERE = {"Sec-Fetch-Site": "same-origin"}
TLS = "https://localhost"  # outside dev a session's cookie is sent over nothing else


class User(UserMixin):
    def __init__(self, id: str) -> None:
        self.id = id


def client_of(app: Flask) -> FlaskClient:
    return app.test_client()


def shop(**options: Any) -> Flask:
    """Return an application outside dev, without a key of tokens unless it is given one."""
    given = {"env": "prod", "service_name": "shop", "secret_key": SECRET}
    settings = Settings(**{**given, **options.pop("settings", {})})
    app = create_app(Service(settings), __name__, **options)

    @app.get("/dashboard")
    def dashboard() -> str:
        return f"hello {get_current_user().subject}"

    @app.route("/api/orders", methods=["GET", "POST"])
    def orders() -> dict[str, str]:
        return {"by": get_current_user().subject}

    @app.get("/about")
    def about() -> str:
        return "about us"

    @app.get("/admin")
    @require_role("admin")
    def admin() -> str:
        return "welcome"

    @app.get("/me")
    @operation
    def me(user: CurrentUser) -> str:
        return user.subject

    return app


def with_flask_login(**options: Any) -> Flask:
    """Return one as Flask-Login's documentation has it."""
    app, manager = shop(**options), LoginManager()
    manager.init_app(app)
    manager.login_view = "login"
    manager.user_loader(User)

    @app.get("/login")
    def login() -> str:
        return "sign in"

    @app.post("/login")
    def sign_in() -> Any:
        login_user(User(request.form["name"]))
        return redirect("/dashboard")

    @app.post("/logout")
    @login_required
    def logout() -> str:
        logout_user()
        return "bye"

    return app


def with_a_callable(**options: Any) -> Flask:
    """Return one whose author keeps the name and the roles in the session."""

    def principal() -> Principal | None:
        name = session.get("name")
        return None if name is None else Principal(name, frozenset(session["roles"]))

    app = shop(principal=principal, public=("/login", "/about"), **options)

    @app.post("/login")
    def sign_in() -> str:
        session.update(name=request.form["name"], roles=[request.form.get("role", "user")])
        return "welcome"

    @app.post("/logout")
    def logout() -> str:
        session.clear()
        return "bye"

    return app


BOTH = pytest.mark.parametrize("make", [with_flask_login, with_a_callable])


def sign_in(client: FlaskClient, name: str = "ann", **more: str) -> None:
    answer = client.post("/login", data={"name": name, **more}, base_url=TLS)
    assert answer.status_code < 400


@BOTH
def test_a_login_is_enough_where_a_token_is_asked_for(make: Any) -> None:
    client = client_of(make())
    for path in ("/dashboard", "/api/orders", "/me"):
        assert client.get(path, base_url=TLS).status_code == 401, path
    sign_in(client)
    assert client.get("/dashboard", base_url=TLS).text == "hello ann"
    assert client.get("/me", base_url=TLS).json == "ann"
    answer = client.post("/api/orders", base_url=TLS, headers=HERE)
    assert answer.json == {"by": "ann"}
    assert client.get("/nothing", base_url=TLS).status_code == 404
    assert client.post("/logout", base_url=TLS, headers=HERE).text == "bye"
    assert client.get("/dashboard", base_url=TLS).status_code == 401


@BOTH
def test_who_is_not_signed_in_is_told_both_ways(make: Any) -> None:
    client = client_of(make())
    for path in ("/api/orders", "/me", "/nothing"):
        answer = client.get(path)
        assert (answer.status_code, answer.mimetype) == (401, "application/problem+json")
        assert answer.json is not None
        assert "Authorization: Bearer" in answer.json["detail"]
        assert "sign in" in answer.json["detail"]


@BOTH
def test_a_login_does_not_let_another_site_in(make: Any) -> None:
    client = client_of(make())
    sign_in(client)
    refused = client.post("/api/orders", base_url=TLS, headers={"Sec-Fetch-Site": "cross-site"})
    assert refused.status_code == 403


@BOTH
def test_a_session_of_another_secret_is_no_login(make: Any) -> None:
    forger = client_of(make(settings={"secret_key": SECRET[::-1]}))
    sign_in(forger)
    client = client_of(make())
    theirs = forger.get_cookie("session")
    assert theirs is not None
    client.set_cookie("session", theirs.value)
    assert client.get("/dashboard", base_url=TLS).status_code == 401


@BOTH
def test_a_token_goes_on_being_enough_and_a_wrong_one_is_refused(make: Any) -> None:
    app = make(settings={"jwt_secret_key": SECRET})
    client = client_of(app)
    token = app.extensions["mainstay"].tokens.issue("service-1", roles=["admin"])
    headers = {"Authorization": f"Bearer {token}"}
    assert client.get("/me", headers=headers).json == "service-1"
    assert client.get("/admin", headers=headers).text == "welcome"
    sign_in(client)
    assert client.get("/me", headers=headers, base_url=TLS).json == "service-1"
    wrong = {"Authorization": "Bearer a.b.c"}
    assert client.get("/me", headers=wrong, base_url=TLS).status_code == 401
    basic = {"Authorization": "Basic YTpi"}
    assert client.get("/me", headers=basic, base_url=TLS).json == "ann"


@BOTH
def test_a_login_says_who_asks_where_nobody_has_to(make: Any) -> None:
    client = client_of(make(settings={"env": "test", "auth_required": False}))
    assert client.get("/about").status_code == 200
    assert client.get("/me").status_code == 401
    client.post("/login", data={"name": "ann"})
    assert client.get("/me").json == "ann"


def test_an_authors_callable_says_roles_too() -> None:
    app = with_a_callable()
    client = client_of(app)
    sign_in(client)
    assert client.get("/admin", base_url=TLS).status_code == 403
    client = client_of(app)
    sign_in(client, "eve", role="admin")
    assert client.get("/admin", base_url=TLS).text == "welcome"


def test_a_request_is_logged_with_who_is_signed_in(capsys: pytest.CaptureFixture[str]) -> None:
    client = client_of(with_flask_login())
    sign_in(client)
    client.get("/api/orders", base_url=TLS)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (line,) = [line for line in lines if line.get("route") == "/api/orders"]
    assert line["user"] == "ann"


def test_public_pages_are_named_in_one_line_and_the_page_to_sign_in_on_needs_no_name() -> None:
    client = client_of(with_flask_login(public=("/", "/about")))
    assert client.get("/about").text == "about us"
    assert client.get("/login").text == "sign in"
    assert client.get("/dashboard").status_code == 401
    assert client.post("/logout").status_code == 401


def test_the_files_of_a_blueprint_are_public_as_those_of_the_application_are(
    tmp_path: Path,
) -> None:
    (tmp_path / "site.css").write_text("body {}")
    app = with_flask_login(static_folder=str(tmp_path), static_url_path="/static")
    accounts = Blueprint(
        "accounts", __name__, url_prefix="/accounts", static_folder=str(tmp_path),
        static_url_path="/files",
    )  # fmt: skip
    accounts.add_url_rule("/<path:path>", "any", lambda path: "any")
    app.register_blueprint(accounts)
    client = client_of(app)
    for path in ("/static/site.css", "/accounts/files/site.css"):
        with client.get(path) as answer:
            assert answer.status_code == 200, path
            assert answer.get_data(as_text=True) == "body {}"
    assert client.get("/accounts/rows").status_code == 401


def test_a_browser_is_led_to_the_page_to_sign_in_on() -> None:
    client = client_of(with_flask_login())
    answer = client.get("/dashboard", headers=PAGE)
    assert (answer.status_code, answer.headers["location"]) == (302, "/login?next=%2Fdashboard")
    assert client.get("/dashboard", headers={"Accept": "application/json"}).status_code == 401


@pytest.mark.parametrize("where", ["/sign-in", "accounts.page"])
def test_the_page_to_sign_in_on_may_be_an_address_or_in_a_blueprint(where: str) -> None:
    app, accounts = shop(), Blueprint("accounts", __name__)
    accounts.add_url_rule("/sign-in", "page", lambda: "sign in")
    app.register_blueprint(accounts)
    manager = LoginManager(app)
    manager.user_loader(User)
    manager.blueprint_login_views = {"accounts": where}
    client = client_of(app)
    assert client.get("/sign-in").text == "sign in"
    assert client.get("/dashboard").status_code == 401


def test_an_authors_own_wall_answers_who_is_not_signed_in() -> None:
    app = with_a_callable()

    def wall() -> Response | None:
        if "name" not in session and request.path != "/login":
            return redirect("/login")  # type: ignore[return-value]  # one of Werkzeug's
        return None

    app.before_request(wall)
    client = client_of(app)
    assert client.get("/dashboard").headers["location"] == "/login"
    sign_in(client)
    assert client.get("/dashboard", base_url=TLS).text == "hello ann"


def test_an_authors_error_handler_may_lead_to_the_login() -> None:
    app = with_a_callable()

    @app.errorhandler(401)
    @app.errorhandler(NotAuthenticated)
    def sign_in_first(error: Exception) -> Any:
        return redirect("/login")

    assert client_of(app).get("/dashboard").headers["location"] == "/login"


@pytest.mark.parametrize("auth_required", [True, False])
def test_a_key_is_its_own_for_each_who_signs_in(auth_required: bool) -> None:
    app = with_a_callable(
        idempotency_store=MemoryStore(), settings={"auth_required": auth_required}
    )
    calls: list[str] = []

    @app.post("/keyed")
    def keyed() -> str:
        idempotent()
        calls.append(session["name"])
        return calls[-1]

    for name in ("ann", "bob"):
        client = client_of(app)
        sign_in(client, name)
        for _ in range(2):
            headers = {**HERE, "Idempotency-Key": "k"}
            assert client.post("/keyed", base_url=TLS, headers=headers).text == name
    assert calls == ["ann", "bob"]


def test_what_is_put_beside_the_application_asks_for_a_token_all_the_same() -> None:
    done: list[str] = []

    def other(environ: Any, start_response: Any) -> list[bytes]:
        done.append(environ["REQUEST_METHOD"])
        start_response("200 OK", [("Content-Length", "6")])
        return [b"secret"]

    app = with_flask_login(settings={"jwt_secret_key": SECRET})
    app.add_url_rule("/<path:path>", "any", lambda path: "any", methods=["GET", "POST"])
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/other": other})  # type: ignore[method-assign]  # as Flask's documentation has it
    client = client_of(app)
    assert client.post("/other/rows", base_url=TLS, headers=HERE).status_code == 401
    assert done == []
    sign_in(client)
    assert client.get("/dashboard", base_url=TLS).status_code == 200
    assert client.post("/other/rows", base_url=TLS, headers=HERE).status_code == 401
    assert done == []
    assert client.get("/other/rows", base_url=TLS).status_code == 401
    token = app.extensions["mainstay"].tokens.issue("service-1")
    headers = {"Authorization": f"Bearer {token}"}
    assert client.get("/other/rows", headers=headers).text == "secret"


def test_a_service_in_which_nobody_can_sign_in_needs_a_key_of_tokens() -> None:
    with pytest.raises(Misconfigured, match=r"JWT_SECRET_KEY.*Flask-Login"):
        create_app(Settings(env="prod", service_name="shop"))
    with pytest.raises(Misconfigured, match=r"JWT_SECRET_KEY.*create_app\(principal"):
        client_of(shop()).get("/about")
    with pytest.raises(Misconfigured, match="JWT_SECRET_KEY"):
        Bridge(shop())
    Bridge(with_flask_login())
