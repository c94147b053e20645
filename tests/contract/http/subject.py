"""The application that the suite talks to: the same routes and answers for every framework."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Request, WebSocket
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask

from mainstay import Service
from mainstay.context import current
from mainstay.errors import (
    Conflict,
    LimitExceeded,
    NotFound,
    Overloaded,
    RemoteFailure,
    Unavailable,
)
from mainstay.http.fastapi import (
    CurrentUser,
    Work,
    body_limit,
    create_app,
    idempotent,
    keyed,
    rate_limit,
    require_role,
    work,
)
from tests.waiting import PATIENCE_SECONDS

__all__ = ["Subject", "build", "has_time", "time_left"]


class Item(BaseModel):
    name: Annotated[str, Field(max_length=20)]
    payload: Any = None
    tags: list[str] = []


class Subject:
    """What a test looks at from the other side."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.finished: list[str] = []
        self.entered: list[str] = []
        self.released = threading.Event()


def has_time() -> bool:
    """Is the moment still to come at which this request must have been answered?"""
    found = current()
    return found is not None and found.deadline is not None and time.monotonic() < found.deadline


def time_left() -> str:
    """How long may a call to another service take, that would take a thousand seconds?"""
    found = current()
    assert found is not None
    told = found.inject().get("x-timeout-seconds")
    return f"{found.remaining_seconds(1_000.0):.0f} {told}"


async def asked_for_its_id(w: Annotated[Work, Depends(work)]) -> str:
    return w.id


async def read_first(request: Request) -> None:
    """Read the body before anybody else, as the test asks for."""
    way = request.headers.get("x-read-first")
    if way == "form":
        await request.form()
    elif way == "data":
        await request.body()
    elif way == "stream":
        async for _ in request.stream():
            pass


def build(service: Service, **options: Any) -> tuple[Any, Subject]:
    """Return the application as FastAPI makes it."""
    app = create_app(service, **options)
    subject = Subject()
    items = APIRouter(prefix="/items")

    @items.get("/{item_id}")
    async def read(item_id: int) -> dict[str, int]:
        return {"id": item_id}

    @items.post("", status_code=201)
    async def create(item: Item) -> Item:
        return Item(name=item.name, payload=item.payload, tags=item.tags)

    @items.post("/keyed", status_code=201)
    async def create_keyed(
        item: Item, response: Response, w: Annotated[Work, Depends(idempotent)]
    ) -> dict[str, Any]:
        subject.calls.append(w.id)
        if item.name == "slow":
            subject.entered.append("slow")
            await asyncio.to_thread(subject.released.wait, PATIENCE_SECONDS)
        if item.name == "taken":
            raise Conflict("that name is taken")
        if item.name == "broken":
            raise RuntimeError("out of luck")
        response.headers["Location"] = f"/api/v1/items/{len(subject.calls)}"
        response.set_cookie("basket", "7")
        return {"call": len(subject.calls), "work": w.id}

    app.include_router(items, prefix="/api/v1")

    @app.post("/only-keyed")
    async def only_keyed(w: Annotated[Work, Depends(keyed)]) -> str:
        return w.id

    @app.post("/named-late")
    async def named_late(
        before: Annotated[str, Depends(asked_for_its_id)],
        w: Annotated[Work, Depends(idempotent)],
    ) -> None:
        subject.calls.append(w.id)
        raise RuntimeError("out of luck")

    orders = APIRouter(prefix="/orders", dependencies=[Depends(read_first)])

    @orders.post("/form")
    async def order_form(
        item: Annotated[str, Form()], w: Annotated[Work, Depends(idempotent)]
    ) -> str:
        subject.calls.append(item)
        return item

    @orders.post("/file")
    async def order_file(
        item: Annotated[bytes, File()], w: Annotated[Work, Depends(idempotent)]
    ) -> str:
        subject.calls.append(item.decode())
        return item.decode()

    @orders.post("/data")
    async def order_data(request: Request, w: Annotated[Work, Depends(idempotent)]) -> str:
        subject.calls.append((await request.body()).decode())
        return subject.calls[-1]

    @orders.post("/stream")
    async def order_stream(request: Request, w: Annotated[Work, Depends(idempotent)]) -> str:
        subject.calls.append(b"".join([piece async for piece in request.stream()]).decode())
        return subject.calls[-1]

    @orders.post("/unread")
    async def order_unread(w: Annotated[Work, Depends(idempotent)]) -> str:
        subject.calls.append("")
        return "done"

    app.include_router(orders)

    @app.post("/items/{item_id}/pay")
    async def pay(item_id: int, w: Annotated[Work, Depends(idempotent)], coin: str = "") -> str:
        subject.calls.append(w.id)
        return f"{item_id} {coin}"

    @app.get("/context")
    async def context() -> dict[str, Any]:
        found = current()
        assert found is not None
        return {
            "correlation_id": found.correlation_id,
            "trace_id": found.trace_id,
            "remaining": found.remaining_seconds(1000.0),
        }

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("the password is hunter2")

    @app.get("/errors/{name}")
    async def errors(name: str) -> None:
        raise {
            "missing": NotFound("there is no such order"),
            "unavailable": Unavailable("the broker does not answer", retry_after_seconds=3),
            "overloaded": Overloaded("too much at once"),
            "limit": LimitExceeded("slower", retry_after_seconds=7, limit=5, window_seconds=60),
            "remote": RemoteFailure("ValueError", "no such operation"),
        }[name]

    @app.get("/slow")
    async def slow(seconds: float) -> str:
        await asyncio.sleep(seconds)
        subject.finished.append("slow")
        return "done"

    @app.get("/blocked")
    def blocked() -> str:
        subject.entered.append("blocked")
        subject.released.wait(PATIENCE_SECONDS)
        return "done"

    @app.get("/aside")
    async def aside() -> str:
        subject.entered.append("aside")
        await asyncio.to_thread(subject.released.wait, PATIENCE_SECONDS)
        return "done"

    @app.get("/breaking")
    async def breaking() -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            yield "data: 0\n\n"
            raise RuntimeError("out of luck")

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.get("/header")
    async def header(value: str) -> Response:
        return Response("ok", headers={"x-echo": value})

    @app.get("/page")
    async def page() -> Response:
        return Response("<p>hello</p>", media_type="text/html")

    @app.post("/upload")
    @body_limit(4 * 1024 * 1024)
    async def upload(request: Request) -> int:
        return len(await request.body())

    @app.get("/stream")
    async def stream(outlast: bool = False) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            for number in range(3):
                while outlast and number == 2 and has_time():  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
                yield f"data: {number}\n\n"
            subject.finished.append("stream")

        return StreamingResponse(events(), media_type="text/event-stream")

    async def noting_late() -> AsyncIterator[None]:
        yield
        subject.finished.append(time_left())

    @app.get("/left/{way}", dependencies=[Depends(noting_late)])
    async def left(way: str) -> Response:
        async def pieces() -> AsyncIterator[str]:
            yield time_left()

        def pieces_of_a_thread() -> Iterator[str]:
            yield time_left()

        def note() -> None:
            subject.finished.append(time_left())

        if way == "stream":
            return StreamingResponse(pieces())
        if way == "stream of a thread":
            return StreamingResponse(pieces_of_a_thread())
        return Response(time_left(), background=BackgroundTask(note))

    @app.get("/address")
    async def address(request: Request) -> dict[str, str]:
        assert request.client is not None
        return {"address": request.client.host, "scheme": request.url.scheme}

    @app.get("/me")
    async def me(user: CurrentUser) -> dict[str, str]:
        return {"user_id": user.subject}

    @app.get("/admin-only", dependencies=[Depends(require_role("admin"))])
    async def admin_only() -> dict[str, str]:
        return {"message": "welcome"}

    @app.get("/seldom", dependencies=[Depends(rate_limit("2/hour"))])
    async def seldom() -> str:
        return "ok"

    @app.websocket("/echo")
    async def echo(connection: WebSocket) -> None:
        await connection.accept()
        found = current()
        assert found is not None
        await connection.send_text(found.correlation_id)
        await connection.send_text(await connection.receive_text())
        await connection.close()

    @app.websocket("/address")
    async def address_of_socket(connection: WebSocket) -> None:
        assert connection.client is not None
        await connection.accept()
        await connection.send_text(f"{connection.client.host} {connection.url.scheme}")
        await connection.close()

    @app.websocket("/refused")
    async def refused(connection: WebSocket) -> None:
        raise NotFound("there is no such room")

    return app, subject
