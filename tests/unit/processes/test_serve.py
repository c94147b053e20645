"""How an application is served."""

from __future__ import annotations

from functools import partial
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
    ("application", "is_wsgi"),
    [
        (fastapi_app(SETTINGS), False),
        (flask_app(SETTINGS), True),
        (FastAPI(), False),
        (Flask(__name__), True),
        (bare, False),
        (plain, True),
        (partial(bare), False),
    ],
    ids=["fastapi", "flask", "foreign fastapi", "foreign flask", "asgi", "wsgi", "partial asgi"],
)
def test_what_an_application_is_is_found_by_how_it_is_called(
    application: Any, is_wsgi: bool
) -> None:
    assert serve.is_wsgi(application) is is_wsgi
    assert not serve.makes_one(application)


def test_a_function_that_takes_nothing_makes_an_application() -> None:
    assert serve.makes_one(make)
