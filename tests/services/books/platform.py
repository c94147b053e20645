"""The books service as its users have it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.services.platform import SERVICES, write_service

__all__ = ["API", "SERVICE", "write_project"]

API = "/api"
SERVICE = SERVICES / "books"


def write_project(folder: Path, ports: Sequence[int]) -> None:
    """Copy the service into *folder*, with the project's manifest on ports that are free."""
    api, worker = ports
    write_service(
        folder,
        "books",
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
""",
    )
