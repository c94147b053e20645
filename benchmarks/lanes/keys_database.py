"""A service with a database that takes an `Idempotency-Key`: it is kept beside the order."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from benchmarks.lanes.orders import Order, Taken, taken
from benchmarks.lanes.orders_table import OrderRow
from mainstay import Service, Settings
from mainstay.http.fastapi import Work, create_app, idempotent
from mainstay.resources.sqlalchemy import Database

app = create_app(Service(Settings, Database()))


@app.post("/orders")
async def order(body: Order, w: Annotated[Work, Depends(idempotent)]) -> Taken:
    w.session.add(OrderRow.of(body))
    return taken(body)
