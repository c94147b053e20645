"""How long tests wait for what must happen."""

from __future__ import annotations

import threading

__all__ = ["PATIENCE_SECONDS", "join"]

PATIENCE_SECONDS = 60.0
"""A limit that only a fault exceeds, also on a busy machine; nothing is measured with it."""


def join(*threads: threading.Thread) -> None:
    """Wait until each of *threads* has ended, and fail when one has not."""
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive(), f"{thread.name} has not ended"
