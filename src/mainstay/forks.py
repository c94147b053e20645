"""How does a process that has threads fork, and leave its child no lock that nobody will open?

A forked child has the forking thread alone: what another thread held at that moment (an import, a
lock of a client library, of a counter) stays held in the child for ever. So threads of ours that
may be at work in a process that forks do it inside :func:`work`, and after :func:`guard` every
fork waits a moment until none is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["generation", "give_way", "guard", "work"]

# A server that hangs while its health is asked must not hold up the process that asks.
PATIENCE_SECONDS = 2.0


class _Gate:
    def __init__(self) -> None:
        self.is_guarded = False
        self.open()

    def open(self) -> None:
        self.changed = threading.Condition()
        self.working = 0
        self.is_forking = False


_gate = _Gate()
_forks = [0]


def generation() -> int:
    """Return how many forks made this process out of the one that Python was started in.

    What is not to be shared with a parent is told by it, for a twentieth of what its pid costs.
    """
    return _forks[0]


def _forked() -> None:
    _forks[0] += 1


os.register_at_fork(after_in_child=_forked)


@contextmanager
def work() -> Iterator[None]:
    """Do something short on a thread, before or after a fork but not during it."""
    with _gate.changed:
        _gate.changed.wait_for(lambda: not _gate.is_forking)
        _gate.working += 1
    try:
        yield
    finally:
        with _gate.changed:
            _gate.working -= 1
            _gate.changed.notify_all()


def give_way() -> None:
    """Let a fork that waits go first; for work that takes longer, between two steps of it."""
    if _gate.is_forking:
        with _gate.changed:
            _gate.working -= 1
            _gate.changed.notify_all()
            _gate.changed.wait_for(lambda: not _gate.is_forking)
            _gate.working += 1


def guard() -> None:
    """Let every fork of this process wait for what is under way; twice is as good as once."""
    if not _gate.is_guarded:
        _gate.is_guarded = True
        os.register_at_fork(before=_begin, after_in_parent=_end, after_in_child=_gate.open)


def _begin() -> None:
    with _gate.changed:
        _gate.is_forking = True
        _gate.changed.wait_for(lambda: not _gate.working, PATIENCE_SECONDS)


def _end() -> None:
    with _gate.changed:
        _gate.is_forking = False
        _gate.changed.notify_all()
