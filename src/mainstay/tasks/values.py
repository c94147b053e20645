"""Values in JSON, without loss: what a task returned comes to the next one as it was.

JSON has no dates, no decimals, no UUIDs and no bytes. Celery's own messages write these as
``{"__type__": …, "__value__": …}``, and so do the statuses of tasks, from which the steps of a
workflow are given what those before them returned.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

__all__ = ["packed", "shown", "unpacked"]

_TYPE, _VALUE = "__type__", "__value__"
_KEYS = {_TYPE, _VALUE}
# A datetime is a date, too.
_WRITTEN: Mapping[type, tuple[str, Callable[[Any], Any]]] = {
    datetime: ("datetime", datetime.isoformat),
    date: ("date", date.isoformat),
    time: ("time", time.isoformat),
    Decimal: ("decimal", str),
    UUID: ("uuid", str),
    bytes: ("bytes", lambda value: base64.b64encode(value).decode()),
}
_READ: Mapping[str, Callable[[Any], Any]] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": UUID,
    "bytes": base64.b64decode,
    # One that looks like an envelope, and is none of ours.
    "dict": lambda pairs: {name: unpacked(value) for name, value in pairs},
}


def packed(value: Any, where: str = "it") -> Any:
    """Return *value* as JSON can hold it, so that :func:`unpacked` gives it back; tuples become
    lists, and the keys of tables text.

    Args:
        where: What *value* is called in an error.

    Raises:
        ValueError: It holds NaN or infinity; which, the error says.
        TypeError: It holds an object of another type; likewise.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):  # also one that is a text or a number, and would come back as that
        raise TypeError(f"{where} is a {type(value).__name__}, which JSON cannot hold")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, which JSON cannot hold")
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple):
        return [packed(each, f"{where}[{place}]") for place, each in enumerate(value)]
    if isinstance(value, dict):
        told = {str(name): packed(each, f"{where}[{name!r}]") for name, each in value.items()}
        return {_TYPE: "dict", _VALUE: list(told.items())} if told.keys() == _KEYS else told
    for kind, (name, write) in _WRITTEN.items():
        if isinstance(value, kind):
            return {_TYPE: name, _VALUE: write(value)}
    raise TypeError(f"{where} is a {type(value).__name__}, which JSON cannot hold")


def unpacked(value: Any) -> Any:
    """Return what was packed as *value*."""
    if isinstance(value, list):
        return [unpacked(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == _KEYS and value[_TYPE] in _READ:
        with suppress(Exception):  # one that looks like an envelope, and was written by others
            return _READ[value[_TYPE]](value[_VALUE])
    return {name: unpacked(each) for name, each in value.items()}


def shown(value: Any) -> Any:
    """Return *value* in plain JSON, for people: a date is a text."""
    if isinstance(value, list | tuple):
        return [shown(each) for each in value]
    if isinstance(value, dict):
        return {name: shown(each) for name, each in value.items()}
    for kind, (_name, write) in _WRITTEN.items():
        if isinstance(value, kind):
            return write(value)
    return value
