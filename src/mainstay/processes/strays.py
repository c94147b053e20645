"""Processes that an earlier ``mainstay dev`` of this project has left behind."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass

from mainstay.processes import facts

__all__ = ["Stray", "find_strays", "stop_strays"]


@dataclass(frozen=True, slots=True)
class Stray:
    """A process that carries the project's mark and has no supervisor any more."""

    pid: int
    command_line: str


def find_strays(variable: str, mark: str) -> list[Stray]:
    """Return every process of this user whose environment says ``variable=mark``.

    This process and those above it are none. Where there is no ``/proc`` none is found: there
    the leash alone has to do.
    """
    ours = _line_of_descent()
    return [
        Stray(pid, facts.command_line(pid) or "command line unknown")
        for pid in facts.pids()
        if pid not in ours
        and (facts.environment(pid) or {}).get(variable) == mark
        and facts.is_alive(pid)
    ]


def stop_strays(strays: list[Stray], *, patience_seconds: float = 5.0) -> None:
    """Ask *strays* to stop, and kill those that have not done so in time."""
    for number, patience in ((signal.SIGTERM, patience_seconds), (signal.SIGKILL, 2.0)):
        left = [stray for stray in strays if facts.is_alive(stray.pid)]
        for stray in left:
            with suppress(ProcessLookupError):
                os.kill(stray.pid, number)
        deadline = time.monotonic() + patience
        while any(facts.is_alive(stray.pid) for stray in left) and time.monotonic() < deadline:
            time.sleep(0.02)


def _line_of_descent() -> set[int]:
    line = {os.getpid()}
    above = os.getppid()
    while above > 0 and above not in line:
        line.add(above)
        above = facts.parent(above) or 0
    return line
