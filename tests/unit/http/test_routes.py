from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from mainstay.http.routes import path_below, template_of


async def answer(item_id: str = "") -> None:
    pass


async def plain(request: Request) -> PlainTextResponse:
    return PlainTextResponse("plain")


async def mounted(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("mounted")(scope, receive, send)


@pytest.fixture(scope="module")
def templates() -> Any:
    """Return the template that a path is led to."""
    app = FastAPI()
    inner, outer = APIRouter(prefix="/items"), APIRouter()
    inner.get("")(answer)
    inner.get("/{item_id}")(answer)
    inner.get("/{item_id}/files/{path:path}")(answer)
    outer.include_router(inner, prefix="/orgs/{org}")
    app.include_router(outer, prefix="/api/v1")
    app.get("/top/{item_id}")(answer)
    app.add_route("/plain", plain)
    app.add_route("/plain/{name}", plain)
    other = FastAPI()
    other.get("/things/{item_id}")(answer)
    app.mount("/other", other)
    app.mount("/files", mounted)
    seen: list[str] = []

    async def edge(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)
        if scope["type"] == "http":
            seen.append(template_of(scope))

    async def request(path: str, method: str) -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(edge)) as client:
            await client.request(method, f"http://orders{path}")

    def ask(path: str, method: str = "GET") -> str:
        asyncio.run(request(path, method))
        return seen[-1]

    return ask


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/top/1", "/top/{item_id}"),
        ("/api/v1/orgs/7/items", "/api/v1/orgs/{org}/items"),
        ("/api/v1/orgs/7/items/1", "/api/v1/orgs/{org}/items/{item_id}"),
        ("/api/v1/orgs/7/items/7", "/api/v1/orgs/{org}/items/{item_id}"),
        (
            "/api/v1/orgs/7/items/1/files/a/b/c",
            "/api/v1/orgs/{org}/items/{item_id}/files/{path}",
        ),
        ("/plain", "/plain"),
        ("/plain/x", "/plain/{name}"),
        ("/other/things/3", "/other/things/{item_id}"),
        ("/nothing", "unmatched"),
        ("/nothing/at/all", "unmatched"),
    ],
)
def test_a_path_has_the_template_of_its_route(templates: Any, path: str, expected: str) -> None:
    assert templates(path) in (expected, expected.replace("{path}", "{path:path}"))


@pytest.mark.parametrize("path", ["/files/a/b.css", "/files/c", "/other/nothing/1"])
def test_what_is_mounted_is_one_label(templates: Any, path: str) -> None:
    assert templates(path) in ("/files", "/other", "unmatched")


@pytest.mark.parametrize(
    ("root_path", "path", "expected"),
    [
        ("", "/a", "/a"),
        ("/svc", "/svc/a", "/a"),
        ("/svc", "/svc", ""),
        ("/svc", "/svc/svc", "/svc"),
        ("/svc", "/a", "/a"),
        ("/svc", "/svca", "/svca"),
        ("/svc/", "/svc//a", "/a"),
        ("/svc", "*", "*"),
    ],
)
def test_an_application_knows_nothing_of_the_path_it_is_served_below(
    root_path: str, path: str, expected: str
) -> None:
    assert path_below(root_path, path) == expected


def test_a_method_that_is_not_taken_has_the_template_too(templates: Any) -> None:
    assert templates("/api/v1/orgs/7/items/1", "POST") == "/api/v1/orgs/{org}/items/{item_id}"


def test_a_value_that_cannot_be_found_is_left_out_rather_than_shown() -> None:
    class Route:
        path = path_format = "/items/{item_id}"
        endpoint = answer

    scope = {"route": Route, "path": "/7/items/1", "path_params": {"item_id": "1", "org": "07"}}
    assert template_of(scope) == "/items/{item_id}"
