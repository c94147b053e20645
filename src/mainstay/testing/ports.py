"""Which port can a test's server keep, also while it is down?"""

from __future__ import annotations

import random
from pathlib import Path

from mainstay.processes.ports import free_port, is_free

__all__ = ["free_port", "steady_port"]

_LOWEST = 20_000
_given: set[int] = set()


def steady_port() -> int:
    """Return a free port that no outgoing connection is given meanwhile.

    A port from the kernel's ephemeral range is the wrong one for a server that is stopped and
    started again: a client that keeps reconnecting to it may be given that very port as its own,
    and is then connected to itself.
    """
    highest = _first_ephemeral_port() - 1
    if highest <= _LOWEST:
        return free_port()
    while True:
        port = random.randint(_LOWEST, highest)  # noqa: S311 - spreads, protects nothing
        if port not in _given and is_free(port):
            _given.add(port)
            return port


def _first_ephemeral_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return 49_152  # where IANA, and macOS, let them begin
