"""What time is it, as lines say it? UTC, RFC 3339, microseconds."""

from __future__ import annotations

import time

__all__ = ["Clock"]


class Clock:
    """Formats a second once, however many lines it has."""

    __slots__ = ("_second",)

    def __init__(self) -> None:
        self._second = (-1, "")  # one tuple, so no lock

    def text(self, now_ns: int) -> str:
        """Write *now_ns*, nanoseconds since 1970."""
        second, rest = divmod(now_ns, 1_000_000_000)
        known, text = self._second
        if second != known:
            text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            self._second = (second, text)
        return f"{text}{rest // 1000:06d}Z"
