"""A service without a database that takes an `Idempotency-Key`: it is kept on Redis."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from benchmarks.lanes.orders import Order, Taken, taken
from mainstay import Settings
from mainstay.http.fastapi import Work, create_app, idempotent

app = create_app(Settings)


@app.post("/orders")
async def order(body: Order, w: Annotated[Work, Depends(idempotent)]) -> Taken:
    return taken(body)
