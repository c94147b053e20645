"""Which TCP ports are free, and who holds one that is not."""

from __future__ import annotations

import errno
import random
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mainstay.processes import facts

__all__ = ["Holder", "free_port", "holder", "is_free", "steady_port"]

_STEADY_LEAST = 20_000
_reserved: set[int] = set()
_LISTEN = "0A"  # the state of a listening socket in /proc/net/tcp


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that listens on a port; ``pid`` is ``None`` when it belongs to another user."""

    port: int
    pid: int | None
    command_line: str

    def __str__(self) -> str:
        if self.pid is None:
            return "a process of another user"
        return f"process {self.pid} ({self.command_line})"


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def steady_port() -> int:
    """Return a free port that a server can keep, also while it is down.

    It lies below the kernel's ephemeral range: a client that keeps reconnecting to a port of that
    range may be given the very same one as its own, and is then connected to itself. No two calls
    return the same port, on Linux not even in two processes while the first of them runs, as far
    as the system lets a port be reserved. When none below that range is found, any free port is
    returned, as :func:`free_port` does.
    """
    beyond = max(_first_ephemeral_port(), _STEADY_LEAST + 1)
    for _ in range(1000):
        port = random.randrange(_STEADY_LEAST, beyond)  # noqa: S311 (spreads, protects nothing)
        if port not in _reserved and is_free(port) and _reserve(port):
            return port
    return free_port()


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether a server could listen on *port* now.

    A port that only old, closing connections still use counts as free.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            # On Linux two sockets may be bound with SO_REUSEADDR; only one may listen.
            probe.listen(1)
        except OSError:
            return False
    return True


def holder(port: int) -> Holder | None:
    """Return who listens on *port*, or ``None`` when that cannot be found out."""
    inodes = _listening_inodes(port)
    if inodes is None:
        return _holder_by_lsof(port)
    if not inodes:
        return None
    sockets = {f"socket:[{inode}]" for inode in inodes}
    for pid in facts.pids():
        if _has_open(pid, sockets):
            return Holder(port, pid, _short(facts.command_line(pid)))
    return Holder(port, None, "")


def _reserve(port: int) -> bool:
    """Keep *port* from every other process that asks here, until this one ends."""
    if sys.platform == "linux":
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reservation:
                # An abstract name: of the network namespace, as the port is, and no file.
                reservation.bind(f"\0mainstay-port-{port}")
                reservation.detach()  # stays open
        except OSError as error:
            # Any other, as where a sandbox allows no such socket, says nothing about the port.
            if error.errno == errno.EADDRINUSE:
                return False
    _reserved.add(port)
    return True


def _first_ephemeral_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return 49_152  # where IANA, and macOS, let them begin


def _listening_inodes(port: int) -> set[str] | None:
    found: set[str] = set()
    seen = False
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        seen = True
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(fields[9])
    return found if seen else None


def _has_open(pid: int, sockets: set[str]) -> bool:
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
    for descriptor in descriptors:
        try:
            if str(descriptor.readlink()) in sockets:
                return True
        except OSError:
            continue
    return False


def _holder_by_lsof(port: int) -> Holder | None:
    command = ["lsof", "-nP", "-t", f"-iTCP:{port}", "-sTCP:LISTEN"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    first = done.stdout.split()[:1]
    if not first:
        return None
    return Holder(port, int(first[0]), _short(facts.command_line(int(first[0]))))


def _short(command: str | None, characters: int = 120) -> str:
    if not command:
        return "command line unknown"
    return command if len(command) <= characters else command[: characters - 1] + "…"
