"""JSON as all of our answers have it: compact, in the order of its making, times in ISO 8601."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
from flask import Response
from flask.json.provider import JSONProvider
from pydantic import BaseModel

__all__ = ["Json"]


class Json(JSONProvider):
    """What `jsonify`, `request.get_json` and views that return a dictionary use.

    Its attributes are those of Flask's own provider, with other defaults.
    """

    ensure_ascii = False
    sort_keys = False
    compact = True
    mimetype = "application/json"

    def dumps(self, obj: Any, **options: Any) -> str:
        chosen: dict[str, Any] = {}
        if self.ensure_ascii:
            chosen["ensure_ascii"] = True
        if self.sort_keys:
            chosen["sort_keys"] = True
        chosen |= options
        if chosen:  # of Python's own module
            if not options:
                chosen["separators"] = (",", ":")
            return json.dumps(obj, **{"default": _default, **chosen})
        return _written(obj).decode()

    def loads(self, s: str | bytes, **options: Any) -> Any:
        return json.loads(s, **options)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        made = self._prepare_response_obj(args, kwargs)
        body = self.dumps(made) if self.compact else self.dumps(made, indent=2)
        made_of: type[Response] = self._app.response_class  # type: ignore[assignment]  # Flask's
        return made_of(body, mimetype=self.mimetype)


def _written(value: Any) -> bytes:
    try:
        return orjson.dumps(value, default=_default)
    except TypeError:  # an integer of more than 64 bits, a key that is no text
        return json.dumps(
            value, default=_default, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode()


def _default(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if hasattr(value, "__html__"):
        return str(value.__html__())
    if isinstance(value, Decimal | date | UUID):
        return value.isoformat() if isinstance(value, date) else str(value)
    raise TypeError(f"JSON cannot hold a {type(value).__qualname__}")
