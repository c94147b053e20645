"""Which queues are there, and where are the results of tasks kept?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from contracts.config.base_settings import BaseSettings
from mainstay.config import urls
from mainstay.config.values import ResultBackend
from mainstay.tasks.celery import CelerySettings, TaskQueue

__all__ = ["CONTRACTS", "DOCUMENTS", "Settings"]

CONTRACTS = TaskQueue(name="contracts")
# Rendering is what takes long: workers that are given this queue alone are scaled by themselves.
DOCUMENTS = TaskQueue(name="contracts_documents")


def _beside_the_contracts(data: Mapping[str, Any]) -> str | None:
    """Keep results in the service's own PostgreSQL, unless another place is named."""
    url = data.get("database_url") or ""
    return urls.result_backend(url) if url.startswith("postgresql") else None


class Settings(BaseSettings, CelerySettings):
    """The settings of every process: those that serve the API send to the same queues."""

    task_queues = (CONTRACTS, DOCUMENTS)

    celery_default_queue: str = CONTRACTS.name
    celery_result_backend: ResultBackend | None = Field(default_factory=_beside_the_contracts)
