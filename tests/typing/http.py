"""What a service author's type checker sees of the HTTP rooms: checked, never run."""

from __future__ import annotations

from typing import Annotated, assert_type

from fastapi import Depends, FastAPI
from flask import Blueprint, Flask
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlmodel import Session as SQLModelSession
from sqlmodel.ext.asyncio.session import AsyncSession as SQLModelAsyncSession

from mainstay import Principal, Service, Settings
from mainstay.breakers import Breaker
from mainstay.http import flask
from mainstay.http.client import AsyncClient, Client, Reply
from mainstay.http.etags import check_if_match, etag_of
from mainstay.http.fastapi import (
    CurrentUser,
    IfMatch,
    Page,
    Rows,
    Work,
    body_limit,
    create_app,
    get_current_user,
    idempotent,
    keyed,
    rate_limit,
    require_role,
    work,
)
from mainstay.resources.sqlalchemy import Database

service = Service(Settings)
app = create_app(service, title="Orders", public=("/", "/auth/*"), in_flight_limit=100)
assert_type(app, FastAPI)
assert_type(create_app(Settings, root_path="/shop"), FastAPI)


@app.get("/orders")
async def every(page: Annotated[Page, Depends()]) -> Rows[str]:
    assert_type(page.limit, int)
    assert_type(page.cursor, str | None)
    return page.rows([1, 2], lambda row: (row,), show=str, total=2)


@app.post("/orders", dependencies=[Depends(rate_limit("5/minute", on_store_error="deny"))])
async def create(w: Annotated[Work, Depends(idempotent)], user: CurrentUser) -> str:
    assert_type(w.session, AsyncSession)
    assert_type(user, Principal)
    await w.call("ledger", {"a": 1}, timeout_seconds=2.0)
    assert_type(await w.send(object(), 1, name="a"), str)
    await w.commit()
    return w.id


@app.put("/orders/{order_id}", dependencies=[Depends(require_role("admin"))])
@body_limit(2_000_000)
async def change(
    order_id: int, w: Annotated[Work, Depends(keyed)], if_match: IfMatch = None
) -> None:
    check_if_match(if_match, etag_of(order_id, 3))


@app.delete("/orders/{order_id}")
async def delete(
    order_id: int,
    w: Annotated[Work, Depends(work)],
    user: Annotated[Principal, Depends(get_current_user)],
) -> None:
    await w.rollback()


@app.patch("/orders/{order_id}")
async def correct(w: Annotated[Work[SQLModelAsyncSession], Depends(idempotent)]) -> None:
    assert_type(w.session, SQLModelAsyncSession)


def signed_in() -> Principal | None:
    return None


shop = flask.create_app(Settings, principal=signed_in, public=("/", "/help/*"))
assert_type(shop, Flask)
assert_type(flask.csrf_exempt(Blueprint("hooks", __name__)), Blueprint)


@shop.post("/paid")
@flask.csrf_exempt
def paid() -> str:
    return flask.csrf_token()


assert_type(paid(), str)


def units_of_work() -> None:
    """Sessions have the classes that the database is given, SQLAlchemy's by default."""
    plain = Database()
    given = Database(session_class=SQLModelSession, async_session_class=SQLModelAsyncSession)
    assert_type(plain, Database[Session, AsyncSession])
    assert_type(given, Database[SQLModelSession, SQLModelAsyncSession])
    with plain.session() as session, given.session() as other:
        assert_type(session, Session)
        assert_type(other, SQLModelSession)
    Service(Settings, given)
    for_any: Database = given
    assert_type(for_any.new_async_session(), AsyncSession)


def ask() -> None:
    with Client("http://ledger", service=service, breaker=Breaker("ledger")) as client:
        assert_type(client.get("/accounts", params={"limit": 5}), Reply)


@app.get("/ask")
async def ask_on_a_loop() -> None:
    async with AsyncClient("http://ledger", passes_principal=True) as client:
        reply = await client.post("/accounts", json={"name": "a"}, timeout_seconds=1.0)
        assert_type(reply.check(), Reply)
