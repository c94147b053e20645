"""Where is this process in its life, and is its work getting on?

Servers such as uvicorn, gunicorn and Celery own their process and call us; loops of our own are
the owner themselves. Both tell one :class:`Lifecycle`, and health and draining hang on it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

__all__ = ["Lifecycle", "Phase", "Pulse"]

HEARTBEAT_FILE = "MAINSTAY_HEARTBEAT_FILE"


class Phase(StrEnum):
    """The four phases of a process, in their order."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"


class Pulse:
    """Something that must go on: a consumer's poll, an iteration, a child's heartbeat.

    Args:
        name: What it is, as `/healthz` shows it.
        limit_seconds: Without a beat for longer than this, the process is stuck.
    """

    def __init__(
        self, name: str, limit_seconds: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.limit_seconds = limit_seconds
        self._clock = clock
        self._last = clock()

    def beat(self) -> None:
        """Say that work goes on; cheap enough for every turn of a loop."""
        self._last = self._clock()

    @property
    def age_seconds(self) -> float:
        return self._clock() - self._last

    @property
    def is_stuck(self) -> bool:
        return self.age_seconds > self.limit_seconds


class Lifecycle:
    """Phases, the callbacks at their borders, and the pulses of what must go on."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.phase = Phase.STARTING
        self.draining = threading.Event()
        self._clock = clock
        self._drain_callbacks: list[Callable[[], object]] = []
        self._stop_callbacks: list[Callable[[], object]] = []
        self._pulses: dict[str, Pulse] = {}
        self._lock = threading.RLock()  # a signal may come while this very thread holds it
        self._last_heartbeat = 0.0

    @property
    def is_ready(self) -> bool:
        """May work be sent here?"""
        return self.phase is Phase.RUNNING

    def on_drain(self, callback: Callable[[], object]) -> None:
        """Call *callback* once when no new work is to be taken; at once when that is so by now."""
        with self._lock:
            if not self.draining.is_set():
                self._drain_callbacks.append(callback)
                return
        callback()

    def on_stop(self, callback: Callable[[], object]) -> None:
        """Call *callback* once when the last work is done; last registered, first called."""
        self._stop_callbacks.append(callback)

    def renew(self) -> bool:
        """Go from ``stopped`` back to ``starting``, and say whether that was so: one process may
        serve an application twice, as tests do.

        What the life before has registered was called at its end; each life registers its own.
        """
        with self._lock:
            if self.phase is not Phase.STOPPED:
                return False
            self.phase = Phase.STARTING
            self.draining.clear()
            self._pulses.clear()
            return True

    def started(self) -> None:
        """Enter ``running``; ignored once the process drains."""
        if self.phase is Phase.STARTING:
            self.phase = Phase.RUNNING

    def drain(self) -> None:
        """Enter ``draining``: not ready any more, no new work. Doing it twice changes nothing.

        Raises:
            ExceptionGroup: Callbacks that failed; all have been called.
        """
        if errors := self._drain():
            raise ExceptionGroup("not everything could be told to drain", errors)

    def stop(self) -> None:
        """Enter ``stopped`` and let go of everything. Doing it twice changes nothing.

        Raises:
            ExceptionGroup: Callbacks that failed; all have been called.
        """
        errors = self._drain()
        with self._lock:
            callbacks, self._stop_callbacks = self._stop_callbacks, []
            self.phase = Phase.STOPPED
        errors += _call(reversed(callbacks))
        if errors:
            raise ExceptionGroup("not everything could be closed", errors)

    def _drain(self) -> list[Exception]:
        with self._lock:
            # Taken, not only read: a signal may ask for the same while this is under way.
            callbacks, self._drain_callbacks = self._drain_callbacks, []
            if not self.draining.is_set():
                self.phase = Phase.DRAINING
                self.draining.set()
        return _call(callbacks)

    def pulse(self, name: str, *, limit_seconds: float) -> Pulse:
        """Return the pulse called *name*, beginning it now when it is new."""
        with self._lock:
            pulse = self._pulses.get(name)
            if pulse is None:
                pulse = self._pulses[name] = Pulse(name, limit_seconds, clock=self._clock)
            return pulse

    def end_pulse(self, name: str) -> None:
        """Expect no more beats of *name*."""
        with self._lock:
            self._pulses.pop(name, None)

    @property
    def pulses(self) -> tuple[Pulse, ...]:
        with self._lock:
            return tuple(self._pulses.values())

    @property
    def is_progressing(self) -> bool:
        """Does everything go on that must?"""
        return not any(pulse.is_stuck for pulse in self.pulses)

    def heartbeat(self) -> None:
        """Touch the file named by ``MAINSTAY_HEARTBEAT_FILE`` while work goes on, once a second
        at most.

        A supervisor, or `mainstay health`, reads the file's time where no port can be asked.
        """
        name = os.environ.get(HEARTBEAT_FILE)
        now = self._clock()
        if not name or now - self._last_heartbeat < 1.0 or not self.is_progressing:
            return
        self._last_heartbeat = now
        with suppress(OSError):  # a full disk must not end a healthy process
            Path(name).touch()


def _call(callbacks: Iterable[Callable[[], object]]) -> list[Exception]:
    errors: list[Exception] = []
    for callback in callbacks:
        try:
            callback()
        except Exception as error:  # noqa: BLE001 - the others must still hear of it
            errors.append(error)
    return errors
