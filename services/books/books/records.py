"""What the importer does with a record: the business, with no framework in sight."""

from __future__ import annotations

from typing import Any

__all__ = ["normalize", "trimmed"]


def normalize(record: dict[str, Any]) -> dict[str, Any]:
    """Return *record* with its id and everything in its payload trimmed."""
    return {"id": trimmed(record["id"]), "payload": trimmed(record["payload"])}


def trimmed(value: Any) -> Any:
    """Return a JSON value without the blanks around each text in it; names stay as they are."""
    match value:
        case str():
            return value.strip()
        case list():
            return [trimmed(one) for one in value]
        case dict():
            return {name: trimmed(one) for name, one in value.items()}
        case _:
            return value
