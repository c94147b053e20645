"""What `create_app` returns: a plain Flask, documented, with nothing from outside."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from flask import Blueprint, Flask, abort, g, got_request_exception, request
from flask.testing import FlaskClient
from pydantic import BaseModel
from sqlmodel import Session
from werkzeug.exceptions import InternalServerError
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from mainstay import Resource, Service, Settings
from mainstay.errors import Misconfigured
from mainstay.http.flask import Page, Rows, Work, create_app, idempotent, operation, work
from mainstay.http.flask.json import Json
from mainstay.lifecycle import Phase
from mainstay.resources.sqlalchemy import Database
from tests.waiting import PATIENCE_SECONDS


class Order(BaseModel):
    name: str


KeyedWork = Annotated[Work, idempotent]


@pytest.fixture
def app(service: Service) -> Flask:
    app = create_app(service, __name__, title="Orders")

    @app.post("/orders")
    @operation
    def create(order: Order, w: KeyedWork) -> Order:
        """Take an order."""
        return order

    @app.get("/orders")
    @operation(tags=["orders"])
    def every(page: Page) -> Rows[int]:
        found = [
            number for number in range(9, 0, -1) if not page.position or number < page.position[0]
        ]
        total = 9 if page.count else None
        return page.rows(
            found[: page.limit + 1], lambda number: (number,), show=lambda n: n, total=total
        )

    @app.get("/plain/<int:number>")
    def plain(number: int) -> dict[str, int]:
        return {"number": number}

    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def test_it_is_a_plain_flask(app: Flask) -> None:
    assert isinstance(app, Flask)


def test_settings_alone_make_a_service() -> None:
    app = create_app(Settings(env="test", service_name="orders"))
    assert app.extensions["mainstay"].name == "orders"
    assert app.import_name == __name__


def test_other_options_are_flasks_own(service: Service) -> None:
    assert create_app(service, static_folder=None, subdomain_matching=True).subdomain_matching


def test_the_services_life_begins_with_the_first_request(
    service: Service, client: FlaskClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert service.lifecycle.phase is Phase.STARTING
    assert client.get("/ready").status_code == 200
    client.get("/ready")
    assert capsys.readouterr().out.count("startup_success") == 1
    assert service.lifecycle.is_ready


def test_an_application_may_be_served_again(service: Service) -> None:
    closed: list[str] = []

    class Ledger(Resource):
        name = "ledger"

        def ping(self) -> None:
            pass

        def close(self) -> None:
            closed.append("ledger")

    service.hold(Ledger())
    app = create_app(service, __name__)
    for _ in range(2):
        app.stations.begin()  # type: ignore[attr-defined]  # what runs the server knows of it
        assert app.test_client().get("/ready").status_code == 200
        service.stop()
        assert closed == ["ledger"]
        assert app.test_client().get("/ready").status_code == 503
        app.stations.forget()  # type: ignore[attr-defined]  # likewise
        closed.clear()


def test_a_service_that_asks_for_tokens_needs_a_key_for_them() -> None:
    with pytest.raises(Misconfigured, match="JWT_SECRET_KEY, JWT_PRIVATE_KEY and JWT_JWKS_URL"):
        create_app(Settings(env="test", service_name="orders", auth_required=True))


def test_settings_that_an_application_cannot_do_without_are_named_at_once() -> None:
    settings = Settings(env="test", service_name="orders", redis_url="redis://h")
    with pytest.raises(Misconfigured) as refused:
        create_app(settings, needs=("secret_key", "redis_url", "database_url"))
    for variable in ("FLASK_SECRET_KEY", "DATABASE_URL"):
        assert variable in str(refused.value)
    assert "REDIS_URL" not in str(refused.value)
    create_app(settings, needs=("redis_url",))


# --- what Flask people expect ---------------------------------------------------------------


def test_hooks_and_blueprints_are_flasks_own(app: Flask, client: FlaskClient) -> None:
    blueprint = Blueprint("shop", __name__, url_prefix="/shop")

    @blueprint.before_request
    def note() -> None:
        g.seen = "before"

    @blueprint.get("/")
    def shop() -> str:
        return str(g.seen)

    @app.after_request
    def mark(response: Any) -> Any:
        response.headers["x-after"] = "1"
        return response

    app.register_blueprint(blueprint)
    answer = client.get("/shop/")
    assert (answer.text, answer.headers["x-after"]) == ("before", "1")
    assert client.get("/nothing").headers["x-after"] == "1"


def test_what_wraps_wsgi_app_stands_inside_of_the_stations(app: Flask) -> None:
    seen: list[str] = []
    inner = app.wsgi_app

    def middleware(environ: Any, start_response: Any) -> Any:
        seen.append(environ["mainstay.entry"].correlation_id)
        return inner(environ, start_response)

    app.wsgi_app = middleware  # type: ignore[method-assign]  # as Flask's documentation has it
    answer = app.test_client().get("/plain/1")
    assert seen == [answer.headers["x-correlation-id"]]


def test_an_authors_error_handler_wins(app: Flask, client: FlaskClient) -> None:
    class OutOfStock(Exception):
        pass

    @app.errorhandler(OutOfStock)
    def out_of_stock(error: OutOfStock) -> tuple[dict[str, str], int]:
        return {"sorry": "none left"}, 410

    @app.errorhandler(404)
    def not_there(error: Exception) -> tuple[str, int]:
        return "not there", 404

    @app.get("/stock")
    def stock() -> str:
        raise OutOfStock

    assert client.get("/stock").json == {"sorry": "none left"}
    assert client.get("/nothing").text == "not there"


def test_what_an_author_says_to_abort_is_told_and_what_werkzeug_says_is_not(
    app: Flask, client: FlaskClient
) -> None:
    @app.get("/abort")
    def give_up() -> str:
        abort(409, "that name is taken")

    @app.get("/form")
    def form() -> str:
        return request.form["missing"]

    @app.get("/private")
    def private() -> str:
        abort(401)

    told = client.get("/abort")
    assert (told.status_code, told.json["detail"]) == (409, "that name is taken")  # type: ignore[index]
    plain = client.get("/form")
    assert (plain.status_code, plain.json["detail"]) == (400, "Bad Request")  # type: ignore[index]
    assert client.get("/private").headers["www-authenticate"] == "Bearer"


def test_those_who_listen_for_errors_hear_of_them(app: Flask, client: FlaskClient) -> None:
    heard: list[Exception] = []

    @app.get("/boom")
    def boom() -> str:
        raise RuntimeError("out of luck")

    def listen(sender: Flask, exception: Exception) -> None:
        heard.append(exception)

    with got_request_exception.connected_to(listen, app):
        assert client.get("/boom").status_code == 500
    assert [str(error) for error in heard] == ["out of luck"]


@pytest.mark.parametrize("handled", [500, InternalServerError])
def test_an_authors_handler_of_500_gets_what_no_other_handler_takes(
    app: Flask,
    client: FlaskClient,
    handled: int | type[Exception],
    capsys: pytest.CaptureFixture[str],
) -> None:
    @app.errorhandler(handled)
    def sorry(error: InternalServerError) -> tuple[str, int]:
        return f"sorry: {error.original_exception}", 500

    @app.get("/boom")
    def boom() -> str:
        raise RuntimeError("out of luck")

    answer = client.get("/boom")
    assert (answer.status_code, answer.text) == (500, "sorry: out of luck")
    assert "out of luck" in capsys.readouterr().out


def test_an_authors_handler_of_everything_gets_what_the_framework_raises(
    app: Flask, client: FlaskClient
) -> None:
    @app.errorhandler(Exception)
    def anything(error: Exception) -> tuple[str, int]:
        return type(error).__name__, 400

    @app.get("/boom")
    def boom() -> str:
        raise RuntimeError

    assert client.get("/boom").text == "RuntimeError"
    assert client.get("/nothing").text == "NotFound"


@pytest.mark.parametrize("testing", [True, False])
def test_teardown_is_told_of_an_unhandled_error(
    app: Flask, client: FlaskClient, testing: bool
) -> None:
    app.testing = testing
    told: list[BaseException | None] = []
    app.teardown_request(told.append)
    app.teardown_appcontext(told.append)

    @app.get("/boom")
    def boom() -> str:
        raise RuntimeError("out of luck")

    answer = client.get("/boom")
    assert (answer.status_code, answer.mimetype) == (500, "application/problem+json")
    assert [str(error) for error in told] == ["out of luck"] * 2


@pytest.mark.parametrize("setting", ["TRAP_HTTP_EXCEPTIONS", "TRAP_BAD_REQUEST_ERRORS", "DEBUG"])
def test_a_setting_for_debugging_makes_no_fault_of_the_service(
    app: Flask, client: FlaskClient, setting: str
) -> None:
    app.config[setting] = True

    @app.get("/form")
    def form() -> str:
        return request.form["missing"]

    assert client.get("/form").status_code == 400


def test_a_form_can_be_looked_at_after_the_request(app: Flask) -> None:
    @app.post("/form")
    def form() -> str:
        return ""

    with app.test_client() as client:
        client.post("/form", data={"item": "book"})
        assert request.form["item"] == "book"


def test_methods_that_an_address_does_not_take_are_not_named(
    app: Flask, client: FlaskClient
) -> None:
    app.add_url_rule("/own", view_func=lambda: "", provide_automatic_options=False)
    answer = client.open("/own", method="OPTIONS")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


def test_the_settings_of_flasks_json_have_effect(app: Flask, client: FlaskClient) -> None:
    assert isinstance(app.json, Json)
    with app.app_context():
        value = {"b": "ё", "a": 1}
        assert app.json.dumps(value) == '{"b":"ё","a":1}'
        app.json.sort_keys = app.json.ensure_ascii = True
        assert app.json.dumps(value) == '{"a":1,"b":"\\u0451"}'
    app.json.compact = False
    app.json.mimetype = "application/vnd.api+json"
    answer = app.json.response({"a": 1})  # without a context
    assert (answer.get_data(as_text=True), answer.mimetype) == (
        '{\n  "a": 1\n}',
        "application/vnd.api+json",
    )


@pytest.mark.parametrize("setting", [{}, {"sort_keys": True}, {"compact": False}], ids=str)
def test_no_setting_of_flasks_json_makes_a_number_that_json_lacks(
    app: Flask, setting: dict[str, bool]
) -> None:
    assert isinstance(app.json, Json)
    for name, value in setting.items():
        setattr(app.json, name, value)
    assert app.json.response({"b": float("nan")}).get_json() == {"b": None}
    # An integer of more than 64 bits is written by another encoder, which has no null for it.
    with pytest.raises(ValueError, match="JSON"):
        app.json.response({"a": 2**64, "b": float("inf")})


def test_ascii_and_options_of_the_caller_refuse_a_number_that_json_lacks(app: Flask) -> None:
    assert isinstance(app.json, Json)
    assert app.json.dumps({"b": float("nan")}, allow_nan=True) == '{"b": NaN}'
    with pytest.raises(ValueError, match="JSON"):
        app.json.dumps({"b": float("nan")}, indent=4)
    app.json.ensure_ascii = True
    with pytest.raises(ValueError, match="JSON"):
        app.json.response({"b": float("nan")})


def test_the_settings_of_flasks_json_go_together(app: Flask) -> None:
    assert isinstance(app.json, Json)
    app.json.sort_keys = True
    app.json.compact = False
    indented = '{\n  "a": {\n    "c": 2,\n    "d": 1\n  },\n  "ё": 0\n}'
    value = {"ё": 0, "a": {"d": 1, "c": 2}}
    assert app.json.response(value).get_data(as_text=True) == indented
    value["a"] = 2**64
    assert app.json.response(value).get_data(as_text=True) == (
        '{\n  "a": 18446744073709551616,\n  "ё": 0\n}'
    )
    assert app.json.dumps({"2": 0, 1: 0}, sort_keys=False) == '{"2": 0, "1": 0}'


def test_a_missing_slash_is_a_redirect(app: Flask, client: FlaskClient) -> None:
    @app.get("/folder/")
    def folder() -> str:
        return "here"

    answer = client.get("/folder")
    assert answer.status_code == 308
    assert answer.headers["location"].endswith("/folder/")


def test_work_outside_of_a_request_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"database\.session\(\)"):
        work()


@pytest.mark.parametrize("is_ours", [False, True])
def test_it_may_be_mounted_in_another_application(app: Flask, is_ours: bool) -> None:
    settings = Settings(env="test", service_name="outer")
    outer = create_app(settings, __name__) if is_ours else Flask(__name__)
    outer.wsgi_app = DispatcherMiddleware(outer.wsgi_app, {"/svc": app})  # type: ignore[method-assign]  # as Flask's documentation has it
    client = outer.test_client()
    assert client.get("/svc/health").json["service"] == "orders"  # type: ignore[index]
    assert client.get("/svc/plain/7").json == {"number": 7}
    assert client.get("/svc/api/v1/docs").status_code == 200
    document = client.get("/svc/api/v1/openapi.json").json
    assert document is not None
    assert document["servers"] == [{"url": "/svc"}]


# --- the document ---------------------------------------------------------------------------


def test_every_operation_documents_its_problems(client: FlaskClient) -> None:
    document = client.get("/api/v1/openapi.json").json
    assert document is not None
    assert document["info"]["title"] == "Orders"
    operation = document["paths"]["/orders"]["post"]
    for status in ("400", "401", "409", "413", "415", "422", "429", "500", "503", "504"):
        content = operation["responses"][status]["content"]
        assert content == {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
        }
    assert document["components"]["schemas"].keys() == {"Order", "Problem", "Rows_int_"}
    assert operation["description"] == "Take an order."


def test_a_key_is_documented_where_it_is_understood(client: FlaskClient) -> None:
    document = client.get("/api/v1/openapi.json").json
    assert document is not None
    names = [one["name"].lower() for one in document["paths"]["/orders"]["post"]["parameters"]]
    assert names == ["idempotency-key"]
    assert "/health" not in document["paths"]


def test_a_plain_view_is_no_part_of_the_document(client: FlaskClient) -> None:
    document = client.get("/api/v1/openapi.json").json
    assert document is not None
    assert document["paths"].keys() == {"/orders"}


@pytest.mark.parametrize("page", ["docs", "redoc"])
def test_a_documentation_page_needs_no_other_host(client: FlaskClient, page: str) -> None:
    answer = client.get(f"/api/v1/{page}")
    assert answer.status_code == 200
    assert "//" not in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    links = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assert links
    for link in links:
        file = client.get(f"/api/v1/{link}")
        assert file.status_code == 200
        assert file.data


def test_files_are_unpacked_for_clients_that_cannot(client: FlaskClient) -> None:
    path = "/api/v1/docs/files/swagger-ui.css"
    packed = client.get(path, headers={"Accept-Encoding": "gzip"})
    plain = client.get(path)
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert len(packed.data) < len(plain.data)
    assert client.get("/api/v1/docs/files/passwd").status_code == 404


# --- pages of rows --------------------------------------------------------------------------


def test_a_page_leads_to_the_next_one_until_the_end(client: FlaskClient) -> None:
    seen: list[int] = []
    cursor: str | None = ""
    while cursor is not None:
        query = {"limit": 4, **({"cursor": cursor} if cursor else {})}
        page: Any = client.get("/orders", query_string=query).json
        assert page.keys() == {"items", "next_cursor"}
        seen += page["items"]
        cursor = page["next_cursor"]
    assert seen == list(range(9, 0, -1))


def test_a_total_is_there_when_it_is_asked_for(client: FlaskClient) -> None:
    answer: Any = client.get("/orders?count=true").json
    assert answer["total"] == 9


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=501", "limit=x", "offset=10001", "offset=-1", "cursor=x", "count=maybe"],
)
def test_what_no_page_has_is_a_422(client: FlaskClient, query: str) -> None:
    answer = client.get(f"/orders?{query}")
    assert answer.status_code == 422
    assert answer.json["errors"][0]["pointer"] == f"/{query.partition('=')[0]}"  # type: ignore[index]


# --- what is found by its place -------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package called `shop` with an application module."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "app.py").write_text(
        "from mainstay import Settings\n"
        "from mainstay.http import flask\n"
        "def create_app(**given):\n"
        "    return flask.create_app(Settings(env='test', service_name='shop', **given))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


def made(package: Path, **given: Any) -> Flask:
    module: types.ModuleType = __import__("shop.app", fromlist=["create_app"])
    app: Flask = module.create_app(**given)
    return app


ROUTES = (
    "def register_blueprints(app):\n"
    "    @app.get('/found')\n"
    "    def found():\n"
    "        return {'found': True}\n"
)


def add_routes(folder: Path, routes: str = ROUTES) -> None:
    (folder / "route").mkdir()
    (folder / "route" / "__init__.py").touch()
    (folder / "route" / "api.py").write_text(routes)


def test_blueprints_are_found_beside_the_application(package: Path) -> None:
    add_routes(package)
    assert made(package).test_client().get("/found").json == {"found": True}


@pytest.mark.parametrize("others", [None, "route.py", "route/schemas.py"])
def test_a_package_without_routes_is_one_too(
    package: Path, others: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    if others is not None:
        (package / others).parent.mkdir(exist_ok=True)
        (package / others).touch()
    assert made(package).test_client().get("/found").status_code == 404
    assert "convention_not_found" not in capfd.readouterr().out


def test_routes_that_register_nothing_are_told(
    package: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    add_routes(package, "def register_blueprint(app): ...\n")
    assert made(package).test_client().get("/found").status_code == 404
    told = capfd.readouterr().out
    assert "shop.route.api has no function register_blueprints(app): write one" in told


APPLICATION = (
    "from mainstay import Settings\n"
    "from mainstay.http.flask import create_app\n"
    "app = create_app(Settings(env='test', model_discovery_paths=['model'], {more}))\n"
    "if __name__ == '__main__':\n"
    "    print(app.url_map)\n"
)


@pytest.fixture
def top_level(tmp_path: Path) -> Path:
    """A folder whose modules are in no package."""
    folder = tmp_path / "src"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "rows.py").write_text("print('models')\n")
    add_routes(folder)
    application = APPLICATION.format(more=f"database_url='sqlite:///{tmp_path}/shop.db'")
    for name in ("app.py", "wsgi.py"):
        (folder / name).write_text(application)
    return folder


@pytest.mark.parametrize(
    ("place", "command"),
    [
        ("src", "-m flask --app app routes"),
        ("src", "-m app"),
        (".", "src/wsgi.py"),
        (".", "-m flask --app src/wsgi.py routes"),
    ],
)
def test_modules_of_the_top_level_have_the_same_convention(
    top_level: Path, place: str, command: str
) -> None:
    told = subprocess.run(
        [sys.executable, *command.split()],
        cwd=top_level.parent / place,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert "/found" in told.stdout
    assert "models" in told.stdout
    assert "convention_not_found" not in told.stdout


def test_routes_that_python_does_not_find_are_told(
    top_level: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    app = top_level / "app.py"
    app.write_text(APPLICATION.format(more="").replace("model_discovery_paths=['model'], ", ""))
    namesake = top_level.parent / "installed"
    namesake.mkdir()
    add_routes(namesake)
    for path in (None, namesake):
        if path is not None:
            monkeypatch.syspath_prepend(str(path))
        spec = importlib.util.spec_from_file_location("shop_without_package", app)
        assert spec is not None
        assert spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        assert "/found" not in str(module.app.url_map)
        told = capfd.readouterr().out
        assert f"{top_level}/route/api.py is not what Python imports as route.api" in told
        assert f"have {top_level} first on its path" in told


def test_models_are_found_where_the_settings_say(package: Path, tmp_path: Path) -> None:
    (package / "model").mkdir()
    (package / "model" / "__init__.py").touch()
    (package / "model" / "rows.py").write_text("FOUND = True\n")
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    app = made(package, database_url=url, model_discovery_paths=("shop/model",))
    assert "shop.model.rows" in sys.modules
    database = app.extensions["mainstay"].resources["database"]
    assert database.models == ("shop.model", "shop.model.rows")


def test_models_without_migrations_are_no_agreement(
    package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (package / "model.py").write_text(
        "import sqlalchemy as sa\n"
        "orders = sa.Table('orders', sa.MetaData(), sa.Column('id', sa.Integer))\n"
    )
    app = made(
        package,
        database_url=f"sqlite:///{tmp_path / 'shop.db'}",
        model_discovery_paths=("shop.model",),
    )
    flask = app.test_cli_runner()
    assert flask.invoke(args=["db", "upgrade"]).exit_code == 0
    check = flask.invoke(args=["db", "check"])
    assert (check.exit_code, "add table orders" in check.output) == (1, True)
    revision = flask.invoke(args=["db", "revision", "-m", "first"])
    assert revision.exit_code == 78
    assert "mainstay db init" in revision.output
    for _ in range(2):
        ready = app.test_client().get("/ready")
        assert (ready.status_code, ready.get_json()["checks"]["schema"]["status"]) == (
            503,
            "unhealthy",
        )
    assert capfd.readouterr().out.count("that the database lacks (orders)") == 1


def test_models_that_are_not_there_are_named(package: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    with pytest.raises(Misconfigured, match=r"MODEL_DISCOVERY_PATHS.*'shop\.modle'"):
        made(package, database_url=url, model_discovery_paths=("shop.modle",))


# --- what is missing ------------------------------------------------------------------------


def test_a_key_without_a_store_is_a_mistake_of_the_service(client: FlaskClient) -> None:
    answer = client.post("/orders", json={"name": "a"}, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 500
    assert "Redis" not in answer.text


def test_work_that_needs_a_database_says_so(service: Service) -> None:
    with pytest.raises(Misconfigured, match="Database"):
        _ = Work(service).session


def test_work_has_the_class_of_session_that_the_database_is_told(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    service = Service(Settings(env="test"), Database(url=url, session_class=Session))
    assert isinstance(Work(service).session, Session)
    service.stop()
