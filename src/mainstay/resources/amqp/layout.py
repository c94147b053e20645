"""What is declared alike on RabbitMQ, whichever way in a queue serves."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["DEAD_LETTERS"]

DEAD_LETTERS: Final[Mapping[str, object]] = MappingProxyType(
    {
        "x-queue-type": "quorum",
        # A dead letter that somebody looks at goes back to its place, and RabbitMQ 4, which has a
        # limit by default, counts that.
        "x-delivery-limit": 1_000_000_000,
    }
)
"""The arguments of a queue of dead letters."""
