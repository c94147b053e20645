"""Starlette's own tests, with the ASGI middleware of `mainstay.http` around every application."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tools.foreign.environments import python_with
from tools.foreign.results import Report
from tools.foreign.web import run_pair

DESCRIPTION = "Starlette's own tests; the ASGI middleware stands around each application"

# The group `dev` of Starlette, without its linters. Its conftest finds blocking calls in
# Starlette's own code with blockbuster.
_NEEDS = (
    *("pytest", "pytest-timeout", "anyio", "trio", "blockbuster", "httpx", "httpx2[zstd]"),
    *("importlib-metadata", "itsdangerous", "jinja2", "opentelemetry-sdk", "python-multipart"),
    *("pytest-codspeed", "pyyaml"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trio",
        action="store_true",
        help="run the tests on trio, too; most of them differ, since the middleware needs asyncio",
    )


def run(options: argparse.Namespace, only: Sequence[str]) -> dict[str, tuple[Report, Report]]:
    chosen = [*(only or ["tests"]), *([] if options.trio else ["-k", "not trio"])]
    python = python_with("starlette", _NEEDS)
    plugin = "tools.foreign.starlette_plugin"
    return {"starlette": run_pair("starlette", python, plugin, chosen, {})}
