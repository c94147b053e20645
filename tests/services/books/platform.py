"""The books service as its users have it; `Platform` is what all services are run with."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.services.data.platform import SERVICES, Platform, environment

__all__ = ["API", "SERVICE", "Platform", "environment", "write_project"]

API = "/api"
SERVICE = SERVICES / "books"


def write_project(folder: Path, ports: Sequence[int]) -> None:
    """Copy the service into *folder*, with the project's manifest on ports that are free."""
    ignored = shutil.ignore_patterns("__pycache__", ".env")
    shutil.copytree(SERVICE, folder / "services" / "books", ignore=ignored)
    api, worker = ports
    folder.joinpath("mainstay.toml").write_text(
        f"""
[service.books]
path = "services/books"
database = true
[service.books.process.api]
kind = "http"
target = "books.app:create_app"
port = {api}
[service.books.process.worker]
kind = "tasks"
target = "books.worker:celery_app"
metrics_port = {worker}
"""
    )
