"""What a team writes that needs it once: `SET NX` before the work, and the answer after it."""

from __future__ import annotations

import os
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, Response
from redis.asyncio import Redis

from benchmarks.lanes.orders import Order, taken

_CLAIM_SECONDS = 30
_ANSWER_SECONDS = 86_400

app = FastAPI()
client = Redis.from_url(os.environ["REDIS_URL"])


@app.post("/orders")
async def order(body: Order, idempotency_key: Annotated[str, Header()]) -> Response:
    name = f"idempotency:{idempotency_key}"
    if not await client.set(name, b"", nx=True, ex=_CLAIM_SECONDS):
        first = await client.get(name)
        if not first:
            raise HTTPException(409, "a request with this key is under way")
        replayed = {"idempotency-replayed": "true"}
        return Response(first, media_type="application/json", headers=replayed)
    answer = taken(body).model_dump_json()
    await client.set(name, answer, ex=_ANSWER_SECONDS)
    return Response(answer, media_type="application/json")
