"""Flask's own tests, with every application as `mainstay.http.flask.create_app` makes it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tools.foreign.environments import python_with
from tools.foreign.results import Report
from tools.foreign.web import run_pair

DESCRIPTION = "Flask's own tests; each application passes through create_app, middleware included"

# Its conftest imports a private name that pytest 9.1 does not have.
_NEEDS = ("pytest==9.0.2", "pytest-timeout", "asgiref", "greenlet", "python-dotenv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--middleware-only",
        action="store_true",
        help="put the WSGI middleware around each application, and leave out what else create_app "
        "changes: error handlers, JSON, cookies, commands",
    )


def run(options: argparse.Namespace, only: Sequence[str]) -> dict[str, tuple[Report, Report]]:
    environment = {"FOREIGN_MIDDLEWARE_ONLY": "1" if options.middleware_only else ""}
    python = python_with("flask", _NEEDS)
    plugin = "tools.foreign.flask_plugin"
    name = "flask-middleware" if options.middleware_only else "flask"
    return {name: run_pair("flask", python, plugin, only or ["tests"], environment)}
