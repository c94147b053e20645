"""An application whose clients are slow; its patience is such that a test need not wait."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from mainstay import Settings
from mainstay.http import connections
from mainstay.http.fastapi import create_app

connections.HEAD_SECONDS = 1.5
connections.UNREAD_SECONDS = 3.0
connections.LINGER_SECONDS = 2.0

app = create_app(Settings(env="test", service_name="orders", drain_delay_seconds=0.0))
begun: list[str] = []
stored: list[bytes] = []
LONG = b"a" * 8_000_000


@app.get("/slow")
async def slow() -> None:
    await asyncio.sleep(0.05)


@app.get("/long")
async def long() -> Response:
    begun.append("long")
    return Response(LONG)


@app.get("/begun")
async def count() -> int:
    return len(begun)


@app.get("/unsent")
async def unsent() -> int:
    """How many bytes wait in this process for clients to take them?"""
    found: list[Any] = [one for one in gc.get_objects() if isinstance(one, connections.Limited)]
    return sum(one.transport.get_write_buffer_size() for one in found)


@app.post("/stored")
async def store(request: Request) -> int:
    stored.append(await request.body())
    return len(stored[-1])


@app.get("/stored")
async def count_stored() -> int:
    return len(stored)


@app.get("/peer")
async def peer(request: Request) -> int:
    return request.client.port if request.client else 0
