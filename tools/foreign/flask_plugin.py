"""Make each `Flask(…)` of a test run what `create_app` makes; a plugin of pytest.

The class takes the place of `flask.Flask` before a test imports it. Its instances pass through
`create_app` itself, which is made to furnish them instead of new ones, so nothing is copied here.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import flask
import flask.app
import pytest

from mainstay.config import Settings
from mainstay.http import wsgi
from mainstay.http.flask import app as chassis
from mainstay.http.flask import routes
from mainstay.service import Service

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

    from mainstay.http.environ import Environ

_MIDDLEWARE_ONLY = bool(os.environ.get("FOREIGN_MIDDLEWARE_ONLY"))
_Bare = flask.Flask
_made: Counter[str] = Counter()


@pytest.fixture(scope="session", autouse=True)
def _applications(record_testsuite_property: Callable[[str, object], None]) -> Iterator[None]:
    yield
    record_testsuite_property("applications", _made["applications"])


def _settings() -> Settings:
    return Settings(env="test", service_name="foreign")


class _WithChassis(chassis._Application):
    def __init__(self, import_name: str, *args: Any, **options: Any) -> None:
        super().__init__(import_name, *args, **options)
        chassis._Application = lambda *_, **__: self  # type: ignore[assignment,misc]  # see above
        chassis.create_app(_settings(), import_name)
        _made["applications"] += 1


class _WithMiddleware(_Bare):
    stations: wsgi.Edge

    def __init__(self, import_name: str, *args: Any, **options: Any) -> None:
        super().__init__(import_name, *args, **options)
        rules = wsgi.Rules(match=routes.matching(self))
        inner = partial(_Bare.__call__, self)
        self.stations = wsgi.Edge(inner, Service(_settings()), rules)
        _made["applications"] += 1

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return self.stations(environ, start_response)


_Ours = _WithMiddleware if _MIDDLEWARE_ONLY else _WithChassis
_Ours.__name__ = _Ours.__qualname__ = "Flask"
flask.Flask = flask.app.Flask = _Ours  # type: ignore[misc]  # a class in place of a class
