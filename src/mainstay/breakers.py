"""Stop asking a server that fails, and let one request at a time find out whether it is well.

Closed, everything passes. After so many failures in a row, timeouts and slow answers included,
it is open: everything is refused at once, so that nobody waits for what will not come. After a
rest it is half-open: one probe passes, and its outcome closes or opens it again. What is the
caller's own fault, a refusal or a cancellation, says nothing about the server and counts nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from mainstay.errors import Retry, Unavailable

__all__ = ["Attempt", "Breaker", "State"]

State = Literal["closed", "half-open", "open"]


class Attempt:
    """One thing that passes a breaker; set ``has_failed`` where nothing is raised."""

    __slots__ = ("has_failed",)

    def __init__(self) -> None:
        self.has_failed = False


class Breaker:
    """The breaker in front of one server; threads and tasks may share it.

    Args:
        name: What it stands in front of, in messages and metrics.
        failures: How many in a row open it.
        rest_seconds: How long it is then open before a probe may pass.
        slow_seconds: An answer that took longer counts as a failure; ``None`` for never.
        on_change: Told the name and the new state, at each change; see also :meth:`watch`.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int = 5,
        rest_seconds: float = 10.0,
        slow_seconds: float | None = None,
        on_change: Callable[[str, State], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.state: State = "closed"
        self._most = failures
        self._rest_seconds = rest_seconds
        self._slow_seconds = slow_seconds
        self._watchers = [] if on_change is None else [on_change]
        self._clock = clock
        self._in_a_row = 0
        self._opened_at = 0.0
        self._is_probing = False
        self._lock = threading.Lock()

    def watch(self, tell: Callable[[str, State], object]) -> None:
        """Tell the name and the state now and at each change; the same *tell* once."""
        with self._lock:
            if tell not in self._watchers:
                self._watchers.append(tell)
                tell(self.name, self.state)

    @contextmanager
    def guard(self) -> Iterator[Attempt]:
        """Let what is inside pass, and learn from how it ends: an error of the `Retry` family is
        a failure, and so is what the attempt is told to be one.

        Raises:
            Unavailable: The breaker is open; nothing was sent.
        """
        is_probe = self._admit()
        started = self._clock()
        attempt = Attempt()
        try:
            yield attempt
        except Retry:
            self._failed(is_probe=is_probe)
            raise
        except BaseException:
            self._end_probe(is_probe=is_probe)
            raise
        took = self._clock() - started
        is_slow = self._slow_seconds is not None and took > self._slow_seconds
        if attempt.has_failed or is_slow:
            self._failed(is_probe=is_probe)
        else:
            self._succeeded(is_probe=is_probe)

    def _admit(self) -> bool:
        with self._lock:
            if self.state == "closed":
                return False
            left = self._opened_at + self._rest_seconds - self._clock()
            if left <= 0 and not self._is_probing:
                self._is_probing = True
                self._become("half-open")
                return True
        raise Unavailable(
            f"{self.name} has failed {self._in_a_row} times in a row and is left alone for a "
            "while: try again later",
            retry_after_seconds=max(left, 1.0),
        )

    def _succeeded(self, *, is_probe: bool) -> None:
        with self._lock:
            if not self._counts(is_probe=is_probe):
                return
            self._in_a_row = 0
            self._is_probing = False
            self._become("closed")

    def _failed(self, *, is_probe: bool) -> None:
        with self._lock:
            if not self._counts(is_probe=is_probe):
                return
            self._in_a_row += 1
            if is_probe:
                self._is_probing = False
            if is_probe or self._in_a_row >= self._most:
                self._opened_at = self._clock()
                self._become("open")

    def _counts(self, *, is_probe: bool) -> bool:
        """What began before it opened and ends after it tells of a time that is past."""
        return is_probe or self.state == "closed"

    def _end_probe(self, *, is_probe: bool) -> None:
        """A probe that ended without a word about the server: the next one may try."""
        if is_probe:
            with self._lock:
                self._is_probing = False
                self._become("open")

    def _become(self, state: State) -> None:
        if state != self.state:
            self.state = state
            for tell in self._watchers:
                tell(self.name, state)
