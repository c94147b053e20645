"""What is known of another process of this machine, by its id.

Linux answers from ``/proc``, macOS through ``ps`` and ``lsof``. A process may end between two
looks, so every question has an answer for "it is gone": ``None``.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "command_line",
    "environment",
    "executable",
    "is_alive",
    "is_zombie",
    "parent",
    "pids",
    "working_folder",
]

_PROC = Path("/proc")
_HAS_PROC = Path("/proc/self/stat").exists()


def is_alive(pid: int) -> bool:
    """Tell whether *pid* runs; a process that ended and was not yet waited for does not."""
    if _HAS_PROC:
        stat = _stat(pid)
        return stat is not None and stat[0] not in "ZX"
    return _ps(pid, "stat") not in (None, "") and not (_ps(pid, "stat") or "").startswith("Z")


def is_zombie(pid: int) -> bool:
    """Tell whether *pid* has ended and nobody has waited for it; unknown without ``/proc``."""
    stat = _stat(pid) if _HAS_PROC else None
    return stat is not None and stat[0] == "Z"


def command_line(pid: int) -> str | None:
    """Return the command line of *pid*, its arguments joined by blanks."""
    if _HAS_PROC:
        raw = _read(pid, "cmdline")
        return None if raw is None else raw.replace(b"\0", b" ").decode(errors="replace").strip()
    return _ps(pid, "command")


def environment(pid: int) -> dict[str, str] | None:
    """Return the environment that *pid* was started with; ``None`` where it may not be read."""
    raw = _read(pid, "environ") if _HAS_PROC else None
    if raw is None:
        return None
    pairs = (entry.partition("=") for entry in raw.decode(errors="replace").split("\0"))
    return {name: value for name, sign, value in pairs if sign}


def executable(pid: int) -> Path | None:
    """Return the program that *pid* runs, wherever an upgrade may have moved it meanwhile."""
    if _HAS_PROC:
        link = _link(pid, "exe")
        return None if link is None else Path(link.removesuffix(" (deleted)"))
    command = _ps(pid, "comm")
    return Path(command) if command else None


def working_folder(pid: int) -> Path | None:
    """Return the folder that *pid* works in."""
    if _HAS_PROC:
        link = _link(pid, "cwd")
        return None if link is None else Path(link)
    for line in (_output("lsof", "-a", "-p", str(pid), "-d", "cwd", "-Fn") or "").splitlines():
        if line.startswith("n"):
            return Path(line[1:])
    return None


def parent(pid: int) -> int | None:
    """Return the id of the process that *pid* reports to."""
    if _HAS_PROC:
        stat = _stat(pid)
        return None if stat is None else int(stat[1])
    answer = _ps(pid, "ppid")
    return int(answer) if answer else None


def pids() -> Iterator[int]:
    """Yield the id of every process; nothing where there is no ``/proc``."""
    if _HAS_PROC:
        for entry in _PROC.iterdir():
            if entry.name.isdigit():
                yield int(entry.name)


def _stat(pid: int) -> list[str] | None:
    raw = _read(pid, "stat")
    # The second field is the program's name in brackets, and a name may hold blanks and brackets.
    return None if raw is None else raw.decode(errors="replace").rpartition(")")[2].split()


def _read(pid: int, name: str) -> bytes | None:
    try:
        return (_PROC / str(pid) / name).read_bytes()
    except OSError:
        return None


def _link(pid: int, name: str) -> str | None:
    try:
        return str((_PROC / str(pid) / name).readlink())
    except OSError:
        return None


def _ps(pid: int, column: str) -> str | None:
    return _output("ps", "-o", f"{column}=", "-p", str(pid))


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
