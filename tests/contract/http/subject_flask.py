"""The application that the suite talks to, as Flask has it; see `subject.py`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any

from flask import Blueprint, Flask, Response, request, stream_with_context

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
from mainstay.http.flask import (
    CurrentUser,
    Work,
    body_limit,
    create_app,
    idempotent,
    keyed,
    operation,
    rate_limit,
    require_role,
    work,
)
from tests.contract.http.subject import Item, Subject, has_time, time_left
from tests.waiting import PATIENCE_SECONDS

__all__ = ["build"]

KeyedWork = Annotated[Work, idempotent]
OnlyKeyedWork = Annotated[Work, keyed]


def build(service: Service, **options: Any) -> tuple[Flask, Subject]:
    """Return the application as Flask makes it."""
    app = create_app(service, __name__, **options)
    subject = Subject()
    items = Blueprint("items", __name__, url_prefix="/api/v1/items")

    @items.get("/<item_id>")
    @operation
    def read(item_id: int) -> dict[str, int]:
        return {"id": item_id}

    @items.post("")
    @operation(status=201)
    def create(item: Item) -> Item:
        return Item(name=item.name, payload=item.payload, tags=item.tags)

    @items.post("/keyed")
    @operation(status=201)
    def create_keyed(item: Item, w: KeyedWork) -> tuple[dict[str, Any], dict[str, str]]:
        subject.calls.append(w.id)
        if item.name == "slow":
            subject.entered.append("slow")
            subject.released.wait(PATIENCE_SECONDS)
        if item.name == "taken":
            raise Conflict("that name is taken")
        if item.name == "broken":
            raise RuntimeError("out of luck")
        made = {"call": len(subject.calls), "work": w.id}
        location = f"/api/v1/items/{len(subject.calls)}"
        return made, {"Location": location, "Set-Cookie": "basket=7; Path=/"}

    app.register_blueprint(items)

    @app.post("/only-keyed")
    @operation
    def only_keyed(w: OnlyKeyedWork) -> str:
        return w.id

    @app.post("/named-late")
    def named_late() -> str:
        assert work().id
        subject.calls.append(idempotent().id)
        raise RuntimeError("out of luck")

    orders = Blueprint("orders", __name__, url_prefix="/orders")

    @orders.before_request
    def read_first() -> None:
        """Read the body before anybody else, as the test asks for."""
        way = request.headers.get("X-Read-First")
        if way == "form":
            request.form.get("csrf_token")
        elif way == "data":
            request.get_data()
        elif way == "stream":
            request.stream.read()

    @orders.post("/form")
    def order_form() -> str:
        idempotent()
        subject.calls.append(request.form["item"])
        return subject.calls[-1]

    @orders.post("/file")
    def order_file() -> str:
        idempotent()
        subject.calls.append(request.files["item"].read().decode())
        return subject.calls[-1]

    @orders.post("/data")
    def order_data() -> str:
        idempotent()
        subject.calls.append(request.get_data(as_text=True))
        return subject.calls[-1]

    @orders.post("/stream")
    def order_stream() -> str:
        idempotent()
        pieces = iter(lambda: request.stream.read(1_000), b"")
        subject.calls.append(b"".join(pieces).decode())
        return subject.calls[-1]

    @orders.post("/unread")
    def order_unread() -> str:
        idempotent()
        subject.calls.append("")
        return "done"

    app.register_blueprint(orders)

    @app.post("/items/<int:item_id>/pay")
    @operation
    def pay(item_id: int, w: KeyedWork, coin: str = "") -> str:
        subject.calls.append(w.id)
        return f"{item_id} {coin}"

    @app.get("/context")
    def context() -> dict[str, Any]:
        found = current()
        assert found is not None
        return {
            "correlation_id": found.correlation_id,
            "trace_id": found.trace_id,
            "remaining": found.remaining_seconds(1000.0),
        }

    @app.get("/boom")
    def boom() -> str:
        raise RuntimeError("the password is hunter2")

    @app.get("/errors/<name>")
    def errors(name: str) -> str:
        raise {
            "missing": NotFound("there is no such order"),
            "unavailable": Unavailable("the broker does not answer", retry_after_seconds=3),
            "overloaded": Overloaded("too much at once"),
            "limit": LimitExceeded("slower", retry_after_seconds=7, limit=5, window_seconds=60),
            "remote": RemoteFailure("ValueError", "no such operation"),
        }[name]

    @app.get("/slow")
    @operation
    def slow(seconds: float) -> str:
        ends_at = time.monotonic() + seconds
        while (left := ends_at - time.monotonic()) > 0:
            found = current()
            if found is not None and not found.remaining_seconds(left):
                return "given up: nobody waits any more"
            time.sleep(min(left, 0.01))
        subject.finished.append("slow")
        return "done"

    @app.get("/blocked")
    @operation
    def blocked() -> str:
        subject.entered.append("blocked")
        subject.released.wait(PATIENCE_SECONDS)
        return "done"

    @app.get("/breaking")
    def breaking() -> Response:
        def events() -> Iterator[str]:
            yield "data: 0\n\n"
            raise RuntimeError("out of luck")

        return Response(events(), mimetype="text/event-stream")

    @app.get("/header")
    def header() -> Response:
        return Response("ok", headers={"x-echo": request.args["value"]})

    @app.get("/page")
    def page() -> str:
        return "<p>hello</p>"

    @app.post("/upload")
    @body_limit(4 * 1024 * 1024)
    @operation
    def upload() -> int:
        return len(request.get_data())

    @app.get("/stream")
    def stream() -> Response:
        outlast = "outlast" in request.args

        def events() -> Iterator[str]:
            for number in range(3):
                while outlast and number == 2 and has_time():
                    time.sleep(0.01)
                yield f"data: {number}\n\n"
            subject.finished.append("stream")

        return Response(events(), mimetype="text/event-stream")

    @app.get("/left/<way>")
    def left(way: str) -> Response:
        def pieces() -> Iterator[str]:
            yield time_left()

        def note() -> None:
            subject.finished.append(time_left())

        if way == "stream":
            response = Response(pieces())
        elif way == "stream of a thread":
            response = Response(stream_with_context(pieces()))
        else:
            response = Response(time_left())
        response.call_on_close(note)
        return response

    @app.get("/address")
    def address() -> dict[str, str]:
        return {"address": request.remote_addr or "", "scheme": request.scheme}

    @app.get("/me")
    @operation
    def me(user: CurrentUser) -> dict[str, str]:
        return {"user_id": user.subject}

    @app.get("/admin-only")
    @require_role("admin")
    def admin_only() -> dict[str, str]:
        return {"message": "welcome"}

    @app.get("/seldom")
    @rate_limit("2/hour")
    def seldom() -> str:
        return "ok"

    return app, subject
