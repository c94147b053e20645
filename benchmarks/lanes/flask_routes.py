"""The business of every Flask lane, the same in each of them."""

from __future__ import annotations

from flask import Flask, request
from flask.json.provider import DefaultJSONProvider

__all__ = ["FlatJson", "add_routes"]


class FlatJson(DefaultJSONProvider):
    """Writes as ours does: in the order of the making, without blanks."""

    sort_keys = False
    compact = True


def add_routes(app: Flask) -> None:
    @app.get("/items/<int:item_id>")
    def read_item(item_id: int) -> dict[str, object]:
        detail = request.args.get("detail") == "true"
        return {"item_id": item_id, "name": "lantern", "detail": detail}
