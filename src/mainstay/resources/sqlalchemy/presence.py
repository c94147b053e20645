"""Is a server that keeps somebody waiting busy, or is it gone?

A statement may take as long as its limit allows, and be well: that it takes long says nothing.
So when one has waited for a moment, the server is asked something on another connection that
takes no time at all. When nobody at all is answered for a second and a half, it is gone: paused,
or behind a network that drops everything. Then nobody need wait for it any more, and nobody begin
to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from mainstay import forks

__all__ = ["Presence"]

PATIENCE_SECONDS = 0.5
"""So long one waits before the server is asked, and from one answer to the next question."""

SILENCE_SECONDS = 1.5
_GAP_SECONDS = 0.5


class Presence:
    """What a process knows of its server; used by any thread.

    Args:
        ask: Has a new connection answer. It comes to an end by itself, however late.
        clock: Seconds that only grow.
    """

    def __init__(
        self, ask: Callable[[], object], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._asked_at: float | None = None
        self._answered_at = -PATIENCE_SECONDS
        self._looked_at = 0.0
        self._awake_since = 0.0
        self._is_closed = False

    @property
    def is_lost(self) -> bool:
        """Has nobody been answered for so long, though the server is being asked?"""
        asked_at = self._asked_at
        if asked_at is None:
            return False
        now = self._clock()
        if now - self._looked_at > _GAP_SECONDS:
            # Nobody looked, so it may be this process that was paused, or has no processor to
            # itself: then the answer may be there, and only has not been read.
            self._awake_since = now
        self._looked_at = now
        return now - max(asked_at, self._answered_at, self._awake_since) > SILENCE_SECONDS

    def answered(self) -> None:
        """Somebody has been answered."""
        self._answered_at = self._clock()

    def is_lost_to(self, waited_seconds: float) -> bool:
        """Must one who has waited for so long give up? Begins to ask, and does not wait for it."""
        if waited_seconds < PATIENCE_SECONDS:
            return False
        self.doubt()
        return self.is_lost

    def doubt(self) -> None:
        """Ask the server, unless it is being asked or has just answered."""
        now = self._clock()
        with self._lock:
            if self._asked_at is not None or now - self._answered_at < PATIENCE_SECONDS:
                return
            self._asked_at = now
        threading.Thread(target=self._find_out, name="database", daemon=True).start()

    def close(self) -> None:
        """Ask no more; can be called twice."""
        self._is_closed = True

    def _find_out(self) -> None:
        while not self._is_closed:
            began = self._clock()
            try:
                with forks.work():
                    self._ask()
            except Exception:  # noqa: BLE001 - a refusal is an answer, whatever it says
                if self._clock() - began > SILENCE_SECONDS:
                    continue  # nobody said anything
            break
        self.answered()
        self._asked_at = None
