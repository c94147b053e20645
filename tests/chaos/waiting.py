"""Waits for conditions, with one generous limit for all scenarios."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mainstay.testing import async_eventually, eventually

__all__ = ["LIMIT_SECONDS", "async_until", "until"]

T = TypeVar("T")

LIMIT_SECONDS = 300.0
"""Only a condition that never becomes true takes so long, however busy the machine is."""


def until(
    check: Callable[[], T], *, timeout_seconds: float = LIMIT_SECONDS, every_seconds: float = 0.02
) -> T:
    """Call *check* until it returns something true, and return that; see `eventually`."""
    return eventually(check, timeout_seconds=timeout_seconds, every_seconds=every_seconds)


async def async_until(check: Callable[[], T], *, timeout_seconds: float = LIMIT_SECONDS) -> T:
    """Call *check* as `until` does, while the event loop goes on."""
    return await async_eventually(check, timeout_seconds=timeout_seconds)
