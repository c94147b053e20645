"""The data service as its users have it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.services.platform import write_service

__all__ = ["API", "write_project"]

API = "/api/v1"


def write_project(folder: Path, ports: Sequence[int]) -> None:
    """Copy the service into *folder*, with the project's manifest on ports that are free."""
    api, worker, dataservice = ports
    write_service(
        folder,
        "data",
        f"""
[service.data]
path = "services/data"
database = true
[service.data.process.api]
kind = "http"
target = "data.api:app"
port = {api}
[service.data.process.worker]
kind = "tasks"
target = "data.worker:celery_app"
metrics_port = {worker}
[service.data.process.dataservice]
kind = "rpc"
target = "data.dataservice:main"
metrics_port = {dataservice}
""",
    )
