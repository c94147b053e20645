"""An application for a server of its own process."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

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


begun: list[int] = []


@app.get("/begun")
async def count() -> int:
    return len(begun)


@app.get("/slow")
async def slow() -> int:
    """Answer when the test makes a file."""
    begun.append(1)
    gate = Path(os.environ["GATE"])
    while not await asyncio.to_thread(gate.exists):  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.02)
    return os.getpid()


@app.get("/quick")
async def quick() -> int:
    return os.getpid()
