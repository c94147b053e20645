"""The business of every HTTP lane, the same in each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI

__all__ = ["add_routes"]


def add_routes(app: FastAPI, *, dependencies: Sequence[Any] = ()) -> None:
    @app.get("/items/{item_id}", dependencies=list(dependencies))
    async def read_item(item_id: int, detail: bool = False) -> dict[str, object]:
        return {"item_id": item_id, "name": "lantern", "detail": detail}
