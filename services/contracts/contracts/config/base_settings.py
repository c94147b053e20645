"""What every process of the contracts service can be told from outside."""

from __future__ import annotations

from pydantic import Field

import mainstay
from mainstay.config.values import HttpUrl

__all__ = ["MODELS", "BaseSettings"]

MODELS = ("contracts.model",)
"""Where the tables are; `MODEL_DISCOVERY_PATHS` may name others."""


class BaseSettings(mainstay.Settings):
    """The settings every service has, and this one's own."""

    service_name: str = "contracts"
    model_discovery_paths: tuple[str, ...] = MODELS
    notify_url: HttpUrl | None = Field(
        None, description="Who is told, by a POST, of each contract that is ready."
    )
