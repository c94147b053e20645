"""What `create_app` returns: a plain FastAPI, documented, with nothing from outside."""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.routing import Mount

from mainstay import Resource, Service, Settings
from mainstay import context as contexts
from mainstay.auth import Tokens
from mainstay.errors import Misconfigured
from mainstay.http.fastapi import Page, Rows, Work, create_app, idempotent
from mainstay.lifecycle import Phase


class Order(BaseModel):
    name: str


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://orders")


@pytest.fixture
def app(service: Service) -> FastAPI:
    app = create_app(service, title="Orders")

    @app.post("/orders")
    async def create(order: Order, w: Annotated[Work, Depends(idempotent)]) -> Order:
        return order

    @app.get("/orders")
    async def every(page: Annotated[Page, Depends()]) -> Rows[int]:
        found = [
            number for number in range(9, 0, -1) if not page.position or number < page.position[0]
        ]
        total = 9 if page.count else None
        return page.rows(
            found[: page.limit + 1], lambda number: (number,), show=lambda n: n, total=total
        )

    return app


def test_it_is_a_plain_fastapi(app: FastAPI) -> None:
    assert isinstance(app, FastAPI)


def test_settings_alone_make_a_service() -> None:
    app = create_app(Settings(env="test", service_name="orders"))
    assert app.title == "orders"


def test_other_options_are_fastapis_own(service: Service) -> None:
    assert create_app(service, summary="All orders").summary == "All orders"


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Undo what a service that starts does to this process' logging."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, sys.excepthook, threading.excepthook)
    yield
    root.handlers[:], root.level, sys.excepthook, threading.excepthook = before
    logging.captureWarnings(capture=False)


@pytest.mark.usefixtures("logging_as_before")
async def test_the_services_life_surrounds_the_authors(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []

    class Ledger(Resource):
        name = "ledger"

        def ping(self) -> None:
            pass

        def close(self) -> None:
            seen.append("closed")

    service = Service(Settings(env="test", service_name="orders"), Ledger())

    @asynccontextmanager
    async def author(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        seen.append(f"begin {service.lifecycle.phase}")
        yield {"key": "value"}
        seen.append(f"end {service.lifecycle.phase}")

    app = create_app(service, lifespan=author)
    async with app.router.lifespan_context(app) as state:
        assert state == {"key": "value"}
        assert service.lifecycle.is_ready
    assert seen[:2] == ["begin starting", "end draining"]
    assert "closed" in seen
    assert service.lifecycle.phase is Phase.STOPPED
    assert "startup_success" in capsys.readouterr().out


@pytest.mark.usefixtures("logging_as_before")
async def test_what_is_held_is_let_go_of_also_when_another_fails() -> None:
    closed: list[str] = []

    class Held(Resource):
        def __init__(self, name: str) -> None:
            self.name = name  # type: ignore[misc]  # of the class, where there is one of each

        def ping(self) -> None:
            pass

        def close(self) -> None:
            pass

        async def aclose(self) -> None:
            closed.append(self.name)
            if self.name == "broken":
                raise OSError("the connection is gone")

    held = [Held("first"), Held("broken"), Held("last")]
    service = Service(Settings(env="test", service_name="orders"), *held)
    app = create_app(service)
    with pytest.raises(OSError, match="gone"):
        async with app.router.lifespan_context(app):
            pass
    assert closed == ["last", "broken", "first"]
    assert service.lifecycle.phase is Phase.STOPPED


@pytest.mark.usefixtures("logging_as_before")
async def test_an_application_may_be_served_again(capsys: pytest.CaptureFixture[str]) -> None:
    closed: list[str] = []
    phases: list[str] = []

    class Ledger(Resource):
        name = "ledger"

        def ping(self) -> None:
            pass

        def close(self) -> None:
            closed.append("ledger")

    service = Service(Settings(env="test", service_name="orders"), Ledger())

    @asynccontextmanager
    async def author(app: FastAPI) -> AsyncIterator[None]:
        phases.append(service.lifecycle.phase)
        assert not service.lifecycle.draining.is_set()
        yield

    app = create_app(service, lifespan=author)
    for _ in range(2):
        closed.clear()
        async with app.router.lifespan_context(app), client_of(app) as client:
            answer = await client.get("/ready")
            assert (answer.status_code, "connection" in answer.headers) == (200, False)
        assert closed
        assert (await client_of(app).get("/ready")).status_code == 503
    assert phases == ["starting", "starting"]
    assert capsys.readouterr().out.count("shutting_down") == 2


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


@pytest.mark.parametrize("way", ["function", "class"])
async def test_a_deadline_ends_with_the_answers_begin_also_behind_a_middleware(
    service: Service, way: str
) -> None:
    app = create_app(service)

    async def passing(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    if way == "function":
        app.middleware("http")(passing)
    else:
        app.add_middleware(GZipMiddleware)

    @app.get("/export")
    async def export() -> StreamingResponse:
        async def rows() -> AsyncIterator[str]:
            yield "left: "  # a middleware may hold the answer until there is something to send
            context = contexts.current()
            assert context is not None
            yield str(context.remaining_seconds(1_000.0))

        return StreamingResponse(rows())

    async with client_of(app) as client:
        assert (await client.get("/export")).text == "left: 1000.0"


# --- below a path ---------------------------------------------------------------------------


STRICT = Settings(
    env="prod", service_name="orders", jwt_secret_key="a secret of at least thirty-two bytes"
)


def below_a_path(way: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Return what serves an application below `/svc`, and how it is told of that."""
    if way == "setting":
        options["root_path"] = "/svc/"
    app = create_app(Service(STRICT), public=("/open",), **options)

    @app.get("/open")
    async def public() -> str:
        return "open"

    @app.get("/orders/{order_id}")
    async def read(order_id: int, request: Request) -> str:
        return str(request.url)

    if way == "server":
        return app, {"root_path": "/svc"}
    if way == "fastapi":
        outer: Any = FastAPI()
        outer.mount("/svc", app)
        return outer, {}
    if way == "starlette":
        return Starlette(routes=[Mount("/{tenant}", app)]), {}
    return app, {}


@pytest.mark.parametrize("way", ["setting", "server", "fastapi", "starlette"])
async def test_below_a_path_it_is_as_without(way: str) -> None:
    app, options = below_a_path(way)
    transport = httpx.ASGITransport(app, **options)
    async with httpx.AsyncClient(transport=transport, base_url="http://orders/svc") as client:
        for path in ("/health", "/metrics", "/api/v1/docs", "/open"):
            assert (await client.get(path)).status_code == 200, path
        refused = await client.get("/orders/7")
        assert (refused.status_code, refused.json()["instance"]) == (401, "/svc/orders/7")
        headers = {"Authorization": f"Bearer {Tokens(STRICT).issue('user-1')}"}
        answer = await client.get("/orders/7", headers=headers)
        assert (answer.status_code, answer.json()) == (200, "http://orders/svc/orders/7")
        assert 'route="/orders/{order_id}",status="200"' in (await client.get("/metrics")).text
        document = (await client.get("/api/v1/openapi.json")).json()
        assert document["servers"] == [{"url": "/svc"}]


async def test_a_path_that_the_proxy_takes_off_is_in_the_document_all_the_same() -> None:
    app, _ = below_a_path("setting")
    async with client_of(app) as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/svchealth")).status_code == 401
        document = (await client.get("/api/v1/openapi.json")).json()
    assert document["servers"] == [{"url": "/svc"}]


async def test_an_author_may_name_the_servers_by_himself() -> None:
    servers = [{"url": "https://shop.example"}]
    app, _ = below_a_path("setting", servers=servers, root_path_in_servers=False)
    async with client_of(app) as client:
        assert (await client.get("/api/v1/openapi.json")).json()["servers"] == servers


async def test_one_application_of_ours_in_another_answers_for_itself() -> None:
    outer = create_app(Settings(env="test", service_name="outer"))
    inner = create_app(Settings(env="test", service_name="inner"))
    outer.mount("/svc", inner)
    async with client_of(outer) as client:
        assert (await client.get("/svc/health")).json()["service"] == "inner"
        assert (await client.get("/svc/api/v1/docs")).status_code == 200
        assert (await client.get("/health")).json()["service"] == "outer"


# --- the document ---------------------------------------------------------------------------


async def test_every_operation_documents_its_problems(app: FastAPI) -> None:
    async with client_of(app) as client:
        document = (await client.get("/api/v1/openapi.json")).json()
    assert document["info"]["title"] == "Orders"
    operation = document["paths"]["/orders"]["post"]
    for status in ("400", "401", "409", "413", "415", "422", "429", "500", "503", "504"):
        content = operation["responses"][status]["content"]
        assert content == {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
        }
    schemas = document["components"]["schemas"]
    assert {"Problem", "Order"} <= schemas.keys()
    assert "HTTPValidationError" not in schemas


async def test_a_key_is_documented_where_it_is_understood(app: FastAPI) -> None:
    async with client_of(app) as client:
        paths = (await client.get("/api/v1/openapi.json")).json()["paths"]
    names = [one["name"].lower() for one in paths["/orders"]["post"]["parameters"]]
    assert names == ["idempotency-key"]
    assert "/health" not in paths


@pytest.mark.parametrize("page", ["docs", "redoc"])
async def test_a_documentation_page_needs_no_other_host(app: FastAPI, page: str) -> None:
    async with client_of(app) as client:
        answer = await client.get(f"/api/v1/{page}")
        assert answer.status_code == 200
        assert "//" not in answer.text
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "http" not in policy
        links = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
        assert links
        for link in links:
            file = await client.get(f"/api/v1/{link}")
            assert file.status_code == 200
            assert file.content
        document = re.search(r'data-document="([^"]+)"', answer.text)
        assert document is not None
        assert (await client.get(f"/api/v1/{document[1]}")).status_code == 200


async def test_files_are_unpacked_for_clients_that_cannot(app: FastAPI) -> None:
    path = "/api/v1/docs/files/swagger-ui.css"
    async with client_of(app) as client:
        packed = await client.get(path, headers={"Accept-Encoding": "gzip"})
        plain = await client.get(path, headers={"Accept-Encoding": "identity"})
        unknown = await client.get("/api/v1/docs/files/passwd")
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content
    assert unknown.status_code == 404


# --- pages ----------------------------------------------------------------------------------


async def test_a_page_leads_to_the_next_one_until_the_end(app: FastAPI) -> None:
    seen: list[int] = []
    cursor: str | None = ""
    async with client_of(app) as client:
        while cursor is not None:
            params: dict[str, Any] = {"limit": 4, **({"cursor": cursor} if cursor else {})}
            page = (await client.get("/orders", params=params)).json()
            assert page.keys() == {"items", "next_cursor"}
            seen += page["items"]
            cursor = page["next_cursor"]
    assert seen == list(range(9, 0, -1))


async def test_a_total_is_there_when_it_is_asked_for(app: FastAPI) -> None:
    async with client_of(app) as client:
        assert (await client.get("/orders?count=true")).json()["total"] == 9


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=501", "limit=x", "offset=10001", "offset=-1", "cursor=x", "count=maybe"],
)
async def test_what_no_page_has_is_a_422(app: FastAPI, query: str) -> None:
    async with client_of(app) as client:
        answer = await client.get(f"/orders?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == f"/{query.partition('=')[0]}"


# --- what is missing ------------------------------------------------------------------------


async def test_a_key_without_a_store_is_a_mistake_of_the_service(app: FastAPI) -> None:
    async with client_of(app) as client:
        answer = await client.post("/orders", json={"name": "a"}, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 500
    assert "Redis" not in answer.text


def test_work_that_needs_a_database_says_so(service: Service) -> None:
    with pytest.raises(Misconfigured, match="Database"):
        _ = Work(service).session
