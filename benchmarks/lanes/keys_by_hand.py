"""The same statements by hand: the claim first, then the order, its answer and "done" in one
transaction, on connections that are tried before they are used. Nothing else: no error is told
apart, no deadline kept, no line written, no metric counted.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, Request, Response
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from benchmarks.lanes.orders import Order, taken
from benchmarks.lanes.orders_table import OrderRow

_CLAIM = text(
    """
    insert into mainstay.idempotency_keys as held
        (scope, operation, fingerprint, owner, epoch, lease_until, created_at, expires_at)
    values (:scope, 'POST /orders', :fingerprint, :owner, 1,
            clock_timestamp() + interval '30 seconds', clock_timestamp(),
            clock_timestamp() + interval '1 day')
    on conflict (scope) do update set
        owner = excluded.owner, epoch = held.epoch + 1, lease_until = excluded.lease_until
    where held.status is null and held.lease_until <= clock_timestamp()
    returning epoch
    """
)
_LOOK = text("select body from mainstay.idempotency_keys where scope = :scope")
_FINISH = text(
    """
    update mainstay.idempotency_keys
    set status = 200, headers = '[]', body = :body, done_at = clock_timestamp()
    where scope = :scope and owner = :owner and status is null
    returning 1
    """
)

app = FastAPI()
engine = create_async_engine(
    os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+asyncpg:"),
    pool_size=10,
    max_overflow=20,
    pool_pre_ping=True,
)
at_once = engine.execution_options(isolation_level="AUTOCOMMIT")


@app.post("/orders")
async def order(
    request: Request, body: Order, idempotency_key: Annotated[str, Header()]
) -> Response:
    scope = hashlib.sha256(idempotency_key.encode()).hexdigest()
    fingerprint = hashlib.sha256(await request.body()).digest()
    owner = secrets.token_hex(16)
    async with at_once.connect() as connection:
        claim = {"scope": scope, "fingerprint": fingerprint, "owner": owner}
        if (await connection.execute(_CLAIM, claim)).scalar() is None:
            first = (await connection.execute(_LOOK, {"scope": scope})).scalar()
            if first is None:
                raise HTTPException(409, "a request with this key is under way")
            replayed = {"idempotency-replayed": "true"}
            return Response(first, media_type="application/json", headers=replayed)
    async with AsyncSession(engine) as session:
        session.add(OrderRow.of(body))
        answer = taken(body).model_dump_json().encode()
        await session.flush()
        done = {"scope": scope, "owner": owner, "body": answer}
        if (await session.execute(_FINISH, done)).scalar() is None:
            raise HTTPException(409, "another worker has taken this request over")
        await session.commit()
    return Response(answer, media_type="application/json")
