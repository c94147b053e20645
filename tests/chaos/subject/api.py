"""The subject's HTTP API; `mainstay run` would serve it as `Stage.api` does."""

from __future__ import annotations

import asyncio
import uuid
from typing import Annotated

from fastapi import Depends
from pydantic import BaseModel, Field
from sqlalchemy import text

from mainstay.errors import LimitExceeded, NotFound
from mainstay.http.fastapi import Work, create_app, idempotent, keyed, work
from tests.chaos.subject.service import GATE_SECONDS, begun, database, effect, is_open, service

app = create_app(service)

Keyed = Annotated[Work, Depends(idempotent)]
_COUNT = text("select count(*) from public.effects where unit = :unit")
_SLEEP = text("select pg_sleep(:seconds)")


class Order(BaseModel):
    """One unit of work.

    Args:
        unit: Its id.
        seconds: How long the handler works before the effect.
        gate: A file that must be there before the effect.
        sql_seconds: How long a statement takes after it.
    """

    unit: str = Field(pattern=r"^unit-[0-9a-f]+-\d+$")
    seconds: float = Field(default=0.0, le=60.0)
    gate: str = ""
    sql_seconds: float = Field(default=0.0, le=60.0)


class Receipt(BaseModel):
    """Another one at each execution, so a replay can be told from doing it again."""

    unit: str
    serial: str


@app.post("/effects", status_code=201)
async def record(order: Order, w: Keyed) -> Receipt:
    """Leave the effect of a unit."""
    begun(order.unit)
    await asyncio.sleep(order.seconds)
    while not is_open(order.gate):  # noqa: ASYNC110 - another process creates the file
        await asyncio.sleep(GATE_SECONDS)
    await _effect(w, order.unit)
    if order.sql_seconds:
        await w.session.execute(_SLEEP, {"seconds": order.sql_seconds})
    return _receipt(order.unit)


@app.post("/keyed/{place}", status_code=201)
async def record_under_a_key(place: str, order: Order, w: Annotated[Work, Depends(keyed)]) -> str:
    """The same, for requests with a key alone; how it ends is in the address."""
    begun(order.unit)
    await _effect(w, order.unit)
    match place:
        case "broken":
            raise RuntimeError("broken on purpose")
        case "limited":
            raise LimitExceeded("limited", retry_after_seconds=1.0, limit=1, window_seconds=1)
        case "missing":
            raise NotFound("missing on purpose")
    return place


@app.get("/effects/{unit}")
async def count(unit: str, w: Annotated[Work, Depends(work)]) -> int:
    """How many effects has a unit?"""
    found = await w.session.scalar(_COUNT, {"unit": unit})
    return int(found or 0)


@app.get("/slow")
async def slow(seconds: float, w: Annotated[Work, Depends(work)]) -> float:
    """Keep a connection of the pool of asyncio busy."""
    await w.session.execute(_SLEEP, {"seconds": seconds})
    return seconds


@app.get("/slow-sync")
def slow_sync(seconds: float) -> float:
    """Keep a connection of the pool of threads busy."""
    with database.session(read_only=True) as session:
        session.execute(_SLEEP, {"seconds": seconds})
    return seconds


@app.post("/echo")
async def echo(body: dict[str, object] | list[object]) -> int:
    """Read any JSON; say how much it is."""
    return len(body)


async def _effect(w: Work, unit: str) -> None:
    connection = await w.session.connection()
    await connection.run_sync(effect, unit)


def _receipt(unit: str) -> Receipt:
    return Receipt(unit=unit, serial=uuid.uuid4().hex)
