"""An application for a server of its own process."""

from __future__ import annotations

import asyncio
import os

from mainstay import Settings
from mainstay.http.fastapi import create_app

app = create_app(
    Settings(
        env="test",
        service_name="orders",
        drain_delay_seconds=float(os.environ["DRAIN_DELAY"]),
        grace_seconds=float(os.environ.get("GRACE", "25")),
    )
)


begun: list[float] = []


@app.get("/begun")
async def count() -> int:
    return len(begun)


@app.get("/slow")
async def slow(seconds: float) -> int:
    begun.append(seconds)
    await asyncio.sleep(seconds)
    return os.getpid()
