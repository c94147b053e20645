"""What Ctrl-C, and the signals that stand for it, do to a command that runs for long."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Interrupted", "Signals", "when_the_terminal_closes"]

_LOOK_SECONDS = 1.0


class Interrupted(BaseException):
    """The command was asked to stop before it ran; what it has begun is to be undone."""


class Signals:
    """While entered, a signal to stop raises `Interrupted` once, or goes where `hand_to` says.

    Only the first one raises: a second must not break into the undoing.
    """

    def __init__(self) -> None:
        self._act: Callable[[], None] | None = None
        self._raised = False
        self._before: dict[int, Any] = {}

    def hand_to(self, act: Callable[[], None]) -> None:
        """From now on call *act* for each signal; it may take no lock."""
        self._act = act

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # started with nohup
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._act is not None:
            self._act()
        elif not self._raised:
            self._raised = True
            raise Interrupted


def when_the_terminal_closes(act: Callable[[], None], *, terminal: int = 1) -> None:
    """Call *act*, from a thread, once the descriptor *terminal* was a terminal and is one no more.

    A window that is closed hangs up on the first process of its session alone. A shell passes
    that on; ``make``, where an editor has started it without one, waits for its children instead.
    """

    def look() -> None:
        while os.isatty(terminal):
            time.sleep(_LOOK_SECONDS)
        time.sleep(_LOOK_SECONDS)  # where there is a shell, its signal comes first
        act()

    if os.isatty(terminal):
        threading.Thread(target=look, name="terminal", daemon=True).start()
