"""Another API of the subject, whose requests call and send tasks: it imports Celery for that."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from pydantic import BaseModel

from mainstay.http.fastapi import Work, create_app, idempotent
from tests.chaos.subject.service import CALLS_QUEUE, begun, effect, service
from tests.chaos.subject.worker import record

app = create_app(service)

Keyed = Annotated[Work, Depends(idempotent)]


class Order(BaseModel):
    """One unit of work, and for some another one that others do."""

    unit: str
    other: str = ""


@app.post("/called", status_code=201)
async def call_and_record(order: Order, w: Keyed) -> str:
    """Call for the other unit, and then leave the effect of this one."""
    begun(order.unit)
    done: str = await w.call(CALLS_QUEUE, {"unit": order.other}, function="record")
    await _effect(w, order.unit)
    return done


@app.post("/sent", status_code=202)
async def record_and_send(order: Order, w: Keyed) -> str:
    """Leave the effect of this unit, and send a task for the other one with the commit."""
    begun(order.unit)
    await _effect(w, order.unit)
    return await w.send(record, order.other)


async def _effect(w: Work, unit: str) -> None:
    connection = await w.session.connection()
    await connection.run_sync(effect, unit)
