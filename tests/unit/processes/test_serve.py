"""Which server an application is for."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from flask import Flask

from mainstay import Settings
from mainstay.http.fastapi import create_app as fastapi_app
from mainstay.http.flask import create_app as flask_app
from mainstay.processes import serve

SETTINGS = Settings(env="test", service_name="orders")


def make() -> Flask:
    return flask_app(SETTINGS)


async def bare(scope: Any, receive: Any, send: Any) -> None: ...


def plain(environ: Any, start_response: Any) -> list[bytes]:
    return []


@pytest.mark.parametrize(
    ("target", "server"),
    [
        (fastapi_app(SETTINGS), ("uvicorn", False)),
        (flask_app(SETTINGS), ("granian", False)),
        (FastAPI(), ("uvicorn", False)),
        (Flask(__name__), ("granian", False)),
        (make, ("granian", True)),
        (lambda: fastapi_app(SETTINGS), ("uvicorn", True)),
        (bare, ("uvicorn", False)),
        (plain, ("granian", False)),
    ],
    ids=[
        "fastapi",
        "flask",
        "foreign fastapi",
        "foreign flask",
        "makes flask",
        "makes fastapi",
        "bare asgi",
        "bare wsgi",
    ],
)
def test_the_server_is_found_by_how_the_application_is_called(
    target: Any, server: tuple[str, bool]
) -> None:
    assert serve.server_of(target) == server
