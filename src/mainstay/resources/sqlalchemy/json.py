"""How are JSON columns written and read? As fast as can be, and without losing a digit."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

__all__ = ["dumps", "loads"]

# orjson knows integers of 64 bits, that is 19 digits and fewer; longer ones it reads as floats.
_LONG_NUMBER = re.compile(r"\d{19}")


def dumps(value: object) -> str:
    """Return *value* as JSON.

    Raises:
        TypeError: It holds something that JSON cannot.
        ValueError: It holds NaN or infinity beside an integer of more than 64 bits.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))


def loads(text: str | bytes) -> Any:
    """Return what the JSON *text* says.

    Raises:
        TypeError: It is no text: SQLite keeps a column's bare numbers as numbers, and SQLAlchemy
            takes them as they are after this.
    """
    if not isinstance(text, str | bytes):
        raise TypeError("JSON is text")
    plain = text if isinstance(text, str) else text.decode()
    return json.loads(plain) if _LONG_NUMBER.search(plain) else orjson.loads(plain)
