"""What the service does with a payload: the business, with no framework in sight."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import Any

import orjson

# Integers beyond 64 bits cannot be read by every JSON implementation (RFC 8259, section 6).
INTEGER_LIMIT = 2**63


class Impossible(Exception):
    """The operation cannot be done with this payload; the message says why."""


def process(payload: Any, description: str | None) -> dict[str, Any]:
    """Do the operation that *description* names, and return the outcome as the API shows it.

    An operation that cannot be done is an outcome too: ``status`` is then ``error``.
    """
    started = time.perf_counter()
    try:
        output = _operate(payload, description)
    except Impossible as error:
        return failure("Impossible", str(error))
    return {
        "status": "success",
        "processed_at": datetime.now(UTC).isoformat(),
        "input": payload,
        "output": output,
        "metadata": {
            "operation": description,
            "input_length": _length(payload),
            "processing_time_ms": round((time.perf_counter() - started) * 1000, 3),
        },
    }


def failure(type: str, detail: str) -> dict[str, Any]:
    """Return the outcome of work that failed."""
    return {"status": "error", "error": {"type": type, "detail": detail}}


def _operate(payload: Any, description: str | None) -> Any:
    match payload:
        case bool() | None:  # before numbers: a boolean is an integer in Python, not in JSON
            return payload
        case str():
            return _text(payload, description)
        case int() | float():
            return _number(payload, description)
        case list():
            return _list(payload, description)
        case dict():
            return {"processed": True, "keys_count": len(payload), "data": payload}
        case _:
            return payload


def _text(text: str, operation: str | None) -> str:
    match operation:
        case "uppercase":
            return text.upper()
        case "reverse":
            return text[::-1]
        case _:
            return f"processed: {text}"


def _number(number: int | float, operation: str | None) -> int | float:
    result: int | float
    match operation:
        case "square":
            result = number * number
        case "double":
            result = number * 2
        case _:
            result = number
    if isinstance(result, float) and not math.isfinite(result):
        raise Impossible(f"the {operation} of {number} is larger than a JSON number can be")
    if isinstance(result, int) and not -INTEGER_LIMIT <= result < INTEGER_LIMIT:
        raise Impossible(f"the {operation} of {number} does not fit into 64 bits")
    return result


def _list(items: list[Any], operation: str | None) -> Any:
    match operation:
        case "reverse":
            return items[::-1]
        case "sort":
            try:
                return sorted(items)
            except TypeError as error:
                kinds = sorted({type(item).__name__ for item in items})
                raise Impossible(
                    f"items of these kinds cannot be put in one order: {', '.join(kinds)}"
                ) from error
        case _:
            return {"count": len(items), "items": items}


def _length(payload: Any) -> int:
    if isinstance(payload, str | list | dict):
        return len(payload)
    return len(orjson.dumps(payload))
