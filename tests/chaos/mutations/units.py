"""How is a message told from others, whatever was done to it?"""

from __future__ import annotations

import re
import zlib
from typing import Final

__all__ = ["AFTER", "NOTE", "UNIT", "is_named", "unit_of", "units_in"]

UNIT: Final = "x-unit"
"""The header that names the unit."""
NOTE: Final = "note"
"""The task, and the function of calls, that leaves a mark for its unit."""
AFTER: Final = "after"
"""A task that leaves no mark: what a message says is to follow on it."""

_UNIT = re.compile(r"unit-([0-9a-f]+)-(\d{7})-([0-9a-f]{8})")


def unit_of(seed: int, number: int) -> str:
    """Return the name of a unit, which is not taken for that of another when a part is broken."""
    name = f"{seed:x}-{number:07d}"
    return f"unit-{name}-{zlib.crc32(name.encode()):08x}"


def units_in(text: str) -> list[str]:
    """Return the units that *text* names."""
    return [
        found[0]
        for found in _UNIT.finditer(text)
        if zlib.crc32(f"{found[1]}-{found[2]}".encode()) == int(found[3], 16)
    ]


def is_named(unit: str, body: bytes, headers: object) -> bool:
    return unit.encode() in body or unit in str(headers)
