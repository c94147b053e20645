"""JSON as all of our answers have it: compact, in the order of its making, times in ISO 8601."""

from __future__ import annotations

import json
from contextlib import suppress
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
        if options:
            settings = {"ensure_ascii": self.ensure_ascii, "sort_keys": self.sort_keys}
            return _by_python(obj, **(settings | options))
        return self._written(obj, compact=True)

    def loads(self, s: str | bytes, **options: Any) -> Any:
        return json.loads(s, **options)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        made = self._prepare_response_obj(args, kwargs)
        body = self._written(made, compact=self.compact)
        made_of: type[Response] = self._app.response_class  # type: ignore[assignment]  # Flask's
        return made_of(body, mimetype=self.mimetype)

    def _written(self, value: Any, *, compact: bool) -> str:
        if not self.ensure_ascii:
            option = orjson.OPT_SORT_KEYS if self.sort_keys else 0
            if not compact:
                option |= orjson.OPT_INDENT_2
            with suppress(TypeError):  # an integer of more than 64 bits, a key that is no text
                return orjson.dumps(value, default=_default, option=option).decode()
        layout: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 2}
        return _by_python(value, ensure_ascii=self.ensure_ascii, sort_keys=self.sort_keys, **layout)


def _by_python(value: Any, **options: Any) -> str:
    # Without `allow_nan=False` it would write numbers that JSON does not have.
    return json.dumps(value, **{"default": _default, "allow_nan": False, **options})


def _default(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if hasattr(value, "__html__"):
        return str(value.__html__())
    if isinstance(value, Decimal | date | UUID):
        return value.isoformat() if isinstance(value, date) else str(value)
    raise TypeError(f"JSON cannot hold a {type(value).__qualname__}")
