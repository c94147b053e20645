"""An application for a server of its own process."""

from __future__ import annotations

import asyncio
import os
import time
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


def wait_at_gate() -> None:
    while not Path(os.environ["GATE"]).exists():
        time.sleep(0.02)


@app.get("/slow")
async def slow() -> int:
    """Answer when the test makes a file."""
    begun.append(1)
    await asyncio.to_thread(wait_at_gate)
    return os.getpid()


@app.get("/quick")
async def quick() -> int:
    return os.getpid()
