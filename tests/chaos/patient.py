"""A worker whose task takes long the first time; run by `celery -A tests.chaos.patient worker`."""

from __future__ import annotations

import os
import time
from pathlib import Path

from mainstay import Service
from mainstay.config import Settings
from mainstay.tasks.celery import create_celery_app

__all__ = ["BEGUN"]

BEGUN = "CHAOS_BEGUN"

celery_app = create_celery_app(Service(Settings))


@celery_app.task(name="patient", time_limit=900)
def patient(key: str, seconds: float) -> None:
    """Say that it begins, and when by the clock that all processes share; wait the first time."""
    begun = Path(os.environ[BEGUN])
    is_first = f"{key} " not in begun.read_text()
    with begun.open("ab", buffering=0) as file:
        file.write(f"{key} {time.monotonic():.6f}\n".encode())
    if is_first:
        time.sleep(seconds)
