"""Settings under which no call ends before it is answered."""

from __future__ import annotations

from mainstay.config import Settings
from tests.waiting import PATIENCE_SECONDS

__all__ = ["patient"]


def patient(**values: str) -> Settings:
    return Settings(env="test", rpc_timeout_seconds=PATIENCE_SECONDS, **values)
