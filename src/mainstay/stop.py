"""When is this process told to stop? By SIGTERM, SIGINT and SIGHUP, without the traps of signal
handlers.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from types import FrameType
from typing import Self

__all__ = ["Stop"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stop:
    """Counts the signals that ask this process to stop, inside a ``with`` block.

    A handler runs between any two steps of the main thread, perhaps one that holds a lock, so it
    only writes to a pipe. Outside the main thread, where Python allows no handlers, it counts
    nothing.
    """

    def __init__(self) -> None:
        self._before: dict[int, object] = {}
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self.is_watching = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        if self.is_watching:
            for number in _SIGNALS:
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue  # started with nohup
                self._before[number] = signal.signal(number, self._came)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # it came from there
        os.close(self._writer)
        os.close(self._reader)

    def wait(self, timeout_seconds: float) -> bool:
        """Has a signal come, or does one come within *timeout_seconds*? Each counts once."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        return bool(poll.poll(timeout_seconds * 1000)) and os.read(self._reader, 1) != b""

    def _came(self, _number: int, _frame: FrameType | None) -> None:
        os.write(self._writer, b"!")
