"""What another site has a browser do in somebody's session is refused, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Blueprint, Flask, render_template_string, request, session
from flask.testing import FlaskClient
from flask_login import LoginManager, UserMixin, login_user
from flask_wtf import CSRFProtect, FlaskForm
from wtforms import StringField

from mainstay import Service, Settings
from mainstay.http.flask import create_app, csrf_exempt, csrf_token

SECRET = "a secret of at least thirty-two bytes"
OTHER_SITE = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}


def made(**given: Any) -> Flask:
    settings = Settings(
        **{
            "env": "test",
            "service_name": "shop",
            "secret_key": SECRET,
            "csrf_enabled": True,
            **given,
        }
    )
    app = create_app(Service(settings), __name__)

    @app.get("/page")
    def page() -> str:
        return render_template_string('<meta name="csrf-token" content="{{ csrf_token() }}">')

    @app.get("/token")
    def token() -> str:
        return csrf_token()

    @app.get("/sign-in")
    def sign_in() -> str:
        session["user"] = "user-7"
        return "welcome"

    @app.route("/change", methods=["POST", "PUT", "PATCH", "DELETE"])
    def change() -> str:
        return f"changed by {session.get('name', 'somebody')}"

    return app


@pytest.fixture
def client() -> FlaskClient:
    return made().test_client()


# --- whose cookies --------------------------------------------------------------------------


@pytest.mark.parametrize("cookie", ["AWSALB", "remember_me", "csrftoken"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_cookie_of_somebody_elses_signs_nobody_in(
    client: FlaskClient, method: str, cookie: str
) -> None:
    client.set_cookie(cookie, "x")
    assert client.open("/change", method=method, headers=OTHER_SITE).status_code == 200


def test_the_session_of_another_service_on_this_host_signs_nobody_in(client: FlaskClient) -> None:
    other = made(secret_key=SECRET[::-1]).test_client()
    other.get("/sign-in")
    theirs = other.get_cookie("session")
    assert theirs is not None
    client.set_cookie("session", theirs.value)
    assert client.post("/change", headers=OTHER_SITE).status_code == 200


@pytest.mark.parametrize("path", ["/token", "/sign-in"])
def test_a_change_in_a_session_needs_the_token_of_a_page(client: FlaskClient, path: str) -> None:
    client.get(path)
    refused = client.post("/change")
    assert refused.status_code == 403
    assert refused.mimetype == "application/problem+json"
    assert "X-CSRF-Token" in refused.json["detail"]  # type: ignore[index]
    token = client.get("/token").text
    assert client.post("/change", headers={"X-CSRF-Token": token}).status_code == 200
    assert client.post("/change", data={"mainstay_csrf_token": token}).status_code == 200


def test_a_session_under_another_name_is_ours_too() -> None:
    app = made()
    app.config["SESSION_COOKIE_NAME"] = "shop"
    client = app.test_client()
    client.get("/sign-in")
    assert client.post("/change", headers=OTHER_SITE).status_code == 403


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")  # Flask-Login's
def test_who_is_remembered_by_flask_login_is_signed_in() -> None:
    app = made()
    LoginManager(app)

    @app.get("/remember")
    def remember() -> str:
        user = UserMixin()
        user.id = "7"
        login_user(user, remember=True)
        return "welcome"

    client = app.test_client()
    client.get("/remember")
    client.delete_cookie("session")
    assert client.post("/change", headers=OTHER_SITE).status_code == 403
    assert client.post("/change", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


# --- where a request comes from -------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, 200),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://shop.localhost"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, 403),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "https://LOCALHOST"}, 200),
        ({"Origin": "http://localhost:8080"}, 403),
        ({"Origin": "http://localhost.evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "body", [{}, {"json": {"a": 1}}, {"data": {"a": "1"}}, {"data": "x", "content_type": "text/x"}]
)
def test_a_page_of_this_site_needs_no_token(
    client: FlaskClient, headers: dict[str, str], status: int, body: dict[str, Any]
) -> None:
    client.get("/sign-in")
    assert client.post("/change", headers=headers, **body).status_code == status


def test_a_token_is_enough_wherever_the_page_is(client: FlaskClient) -> None:
    headers = {**OTHER_SITE, "X-CSRF-Token": client.get("/token").text}
    assert client.post("/change", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded"]
)
def test_who_says_nothing_of_its_page_needs_a_token(client: FlaskClient, content_type: str) -> None:
    client.get("/sign-in")
    sent: dict[str, Any] = {"data": '{"a": "="}', "content_type": content_type}
    assert client.post("/change", **sent).status_code == 403
    headers = {"X-CSRF-Token": client.get("/token").text}
    assert client.post("/change", headers=headers, **sent).status_code == 200


@pytest.mark.parametrize("token", ["", "x", "é", "x" * 10_000])
def test_another_token_is_none(client: FlaskClient, token: str) -> None:
    client.get("/token")
    assert client.post("/change", data={"mainstay_csrf_token": token}).status_code == 403


def test_the_token_of_another_session_is_none(client: FlaskClient) -> None:
    other = client.application.test_client()
    token = other.get("/token").text
    client.get("/token")
    assert client.post("/change", headers={"X-CSRF-Token": token}).status_code == 403


def test_the_token_is_the_same_for_a_session_and_in_its_templates(client: FlaskClient) -> None:
    token = client.get("/token").text
    assert client.get("/page").text == f'<meta name="csrf-token" content="{token}">'


def test_without_cookies_there_is_nothing_to_misuse(client: FlaskClient) -> None:
    assert client.post("/change", headers=OTHER_SITE).status_code == 200


def test_reading_needs_no_token(client: FlaskClient) -> None:
    client.get("/token")
    assert client.get("/page", headers=OTHER_SITE).status_code == 200
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
    client.set_cookie("session", "dark")
    assert client.post("/change").status_code == 200
    assert client.get("/token").status_code == 500


# --- exemptions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "status"),
    [({"env": "test"}, 200), ({"env": "dev"}, 403), ({"env": "dev", "csrf_enabled": False}, 200)],
)
def test_protection_is_a_setting_and_off_in_tests(given: dict[str, Any], status: int) -> None:
    settings = Settings(service_name="shop", secret_key=SECRET, **given)
    app = create_app(Service(settings), __name__)
    app.add_url_rule("/token", view_func=csrf_token)
    app.add_url_rule("/change", view_func=lambda: "done", methods=["POST"])
    client = app.test_client()
    client.get("/token")
    assert client.post("/change", headers=OTHER_SITE).status_code == status


def test_a_view_or_a_blueprint_may_be_exempt() -> None:
    app = made()
    outer = csrf_exempt(Blueprint("outer", __name__, url_prefix="/outer"))
    inner = Blueprint("inner", __name__, url_prefix="/inner")
    other = Blueprint("other", __name__, url_prefix="/other")

    def view() -> str:
        return "done"

    for blueprint in (outer, inner, other):
        blueprint.add_url_rule("", view_func=view, methods=["POST"])
    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    app.register_blueprint(other)

    @app.post("/webhook")
    @csrf_exempt
    def webhook() -> str:
        return "done"

    client = app.test_client()
    client.get("/sign-in")
    for path, status in (
        ("/webhook", 200),
        ("/outer", 200),
        ("/outer/inner", 200),
        ("/other", 403),
        ("/change", 403),
    ):
        assert client.post(path, headers=OTHER_SITE).status_code == status, path


# --- beside Flask-WTF -----------------------------------------------------------------------

PAGE = '<form method="post">{{ form.hidden_tag() }}</form>{{ csrf_token() if csrf_token }}'


def shop(*, protects: bool, prefix: str = "") -> tuple[Flask, CSRFProtect]:
    """Return an application as Flask-WTF's documentation has it."""

    class Form(FlaskForm):
        item = StringField()

    app, csrf = made(env="dev"), CSRFProtect()
    if protects:
        csrf.init_app(app)

    @app.route("/form", methods=["GET", "POST"])
    def form() -> str:
        session["user"] = "user-7"
        form = Form(prefix=prefix)
        if form.validate_on_submit():
            return f"ordered {form.item.data}"
        return render_template_string(PAGE, form=form) + str(form.errors)

    return app, csrf


@pytest.fixture
def hidden() -> Callable[[FlaskClient], str]:
    def find(client: FlaskClient) -> str:
        found = re.search(r'csrf_token" type="hidden" value="([^"]+)"', client.get("/form").text)
        assert found is not None
        return found[1]

    return find


@pytest.mark.parametrize("protects", [True, False])
@pytest.mark.parametrize("prefix", ["", "order-"])
def test_a_form_of_flask_wtf_is_taken(
    hidden: Callable[[FlaskClient], str], protects: bool, prefix: str
) -> None:
    client = shop(protects=protects, prefix=prefix)[0].test_client()
    sent = {f"{prefix}item": "book", f"{prefix}csrf_token": hidden(client)}
    answer = client.post("/form", data=sent)
    assert (answer.status_code, answer.text) == (200, "ordered book")


def test_both_tokens_are_good_in_one_session(hidden: Callable[[FlaskClient], str]) -> None:
    client = shop(protects=False)[0].test_client()
    theirs, ours = hidden(client), client.get("/token").text
    for sent in ({"csrf_token": theirs}, {"mainstay_csrf_token": ours}):
        assert client.post("/change", data=sent).status_code == 200
    assert hidden(client)
    assert client.post("/change", data={"csrf_token": f"{theirs}x"}).status_code == 403


def test_a_form_of_flask_wtf_is_taken_over_tls(hidden: Callable[[FlaskClient], str]) -> None:
    client = shop(protects=True)[0].test_client()
    page = client.get("/form", base_url="https://localhost")
    assert page.headers["referrer-policy"] == "same-origin"  # or the next would have no referrer
    found = re.search(r'value="([^"]+)"', page.text)
    assert found is not None
    answer = client.post(
        "/form",
        base_url="https://localhost",
        data={"item": "book", "csrf_token": found[1]},
        headers={"Referer": "https://localhost/form", "Sec-Fetch-Site": "same-origin"},
    )
    assert (answer.status_code, answer.text) == (200, "ordered book")


def test_csrf_protect_keeps_its_token_and_its_exemptions() -> None:
    app, csrf = shop(protects=True)

    @app.post("/webhook")
    @csrf.exempt
    def webhook() -> str:
        return request.form.get("event", "")

    client = app.test_client()
    client.get("/form")
    token = client.get("/page").text.split('"')[3]
    assert client.post("/webhook", data={"event": "paid"}, headers=OTHER_SITE).text == "paid"
    assert client.post("/change", headers={"X-CSRFToken": token}).status_code == 200
    assert client.post("/change", headers={"X-CSRF-Token": token}).status_code == 200
    assert client.post("/change", headers=OTHER_SITE).status_code == 400


def test_a_template_has_the_token_of_another_extension_where_there_is_one() -> None:
    app = made()
    app.jinja_env.globals["csrf_token"] = lambda: "theirs"
    assert app.test_client().get("/page").text == '<meta name="csrf-token" content="theirs">'


def test_without_flask_wtfs_protection_another_site_is_refused_its_forms() -> None:
    client = shop(protects=False)[0].test_client()
    client.get("/form")
    assert client.post("/form", data={"item": "book"}, headers=OTHER_SITE).status_code == 403
