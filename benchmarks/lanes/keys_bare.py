"""FastAPI and nothing else: a key is not looked at, and a request that is sent twice done twice."""

from __future__ import annotations

from fastapi import FastAPI

from benchmarks.lanes.orders import Order, Taken, taken

app = FastAPI()


@app.post("/orders")
async def order(body: Order) -> Taken:
    return taken(body)
