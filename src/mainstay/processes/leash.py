"""End what a supervisor has started once the supervisor is gone, however it went.

The leash is a tiny process in a session of its own. Over a pipe it learns which process groups
are alive; the end of that pipe is the end of the supervisor, be it by ``kill -9``. Then it asks
the groups to stop, waits a little and kills the rest: first the services' processes, so that they
can give back what is in hand, then the servers that those use.

Run as ``python -S -E leash.py`` it is that process; `Leash` is the supervisor's end of the pipe.
"""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

__all__ = ["PROCESSES", "SERVERS", "Leash"]

PROCESSES, SERVERS = 0, 1
PATIENCE_SECONDS = 5.0

_UNHEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Leash:
    """Holds process groups so that none outlives this process.

    Args:
        patience_seconds: How long each kind may take to stop before it is killed.
    """

    def __init__(self, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._groups: dict[int, int] = {}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def hold(self, group: int, kind: int = PROCESSES) -> None:
        """Put the process group *group* on the leash."""
        with self._lock:
            self._groups[group] = kind
            self._tell(f"+ {group} {kind}\n")

    def release(self, group: int) -> None:
        """Take *group* off again: it has ended, or is meant to live on."""
        with self._lock:
            if self._groups.pop(group, None) is not None:
                self._tell(f"- {group}\n")

    def close(self) -> None:
        """Let go; what is still held is ended now. May be called twice."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            _close(process)

    @property
    def pid(self) -> int | None:
        """The leash's own process, once something is held."""
        return None if self._process is None else self._process.pid

    def _tell(self, line: str) -> None:
        if self._process is not None:
            try:
                _write(self._process, line)
                return
            except BrokenPipeError:
                _close(self._process)  # somebody killed the leash: a new one is told everything
        self._process = self._start()
        _write(self._process, "".join(f"+ {g} {kind}\n" for g, kind in self._groups.items()))

    def _start(self) -> subprocess.Popen[bytes]:
        # Blocked signals are inherited, so the leash hears none of them from its first moment.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _UNHEARD)
        try:
            return subprocess.Popen(
                [sys.executable, "-S", "-E", __file__, str(self._patience_seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd="/",
                env={},
                start_new_session=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _write(process: subprocess.Popen[bytes], text: str) -> None:
    if process.stdin is not None:
        process.stdin.write(text.encode())


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    process.wait()


def wait_for_the_end(patience_seconds: float) -> None:
    """Follow the supervisor's words until they end, then end what is still held."""
    held: tuple[set[int], set[int]] = set(), set()
    for line in sys.stdin:
        word, *numbers = line.split()
        group = int(numbers[0])
        for groups in held:
            groups.discard(group)
        if word == "+":
            held[int(numbers[1])].add(group)
    for groups in held:
        end(groups, patience_seconds)


def end(groups: set[int], patience_seconds: float) -> None:
    """Ask *groups* to stop, wait, then kill what is left of them."""
    for group in groups:
        _sent(os.kill, group, signal.SIGTERM)
    asked: set[int] = set()
    deadline = time.monotonic() + patience_seconds
    while (running := living(groups)) and time.monotonic() < deadline:
        for group, has_leader in running.items():
            # A leader stops its own children, warmly; only where it is gone they are asked.
            if not has_leader and group not in asked:
                asked.add(group)
                _sent(os.killpg, group, signal.SIGTERM)
        time.sleep(0.05)
    for group in groups:
        _sent(os.killpg, group, signal.SIGKILL)


def living(groups: set[int]) -> dict[int, bool]:
    """Return those of *groups* in which something still runs, and whether the leader does.

    A process that has ended and that nobody has waited for is no longer one; in a container whose
    first process reaps nobody it stays for ever.
    """
    found: dict[int, bool] = {}
    stats = glob.glob("/proc/[0-9]*/stat")  # noqa: PTH207 (pathlib would double this program)
    if not stats:
        return {g: _sent(os.kill, g, 0) for g in groups if _sent(os.killpg, g, 0)}
    for path in stats:
        try:
            with open(path, "rb") as file:  # noqa: PTH123 (likewise)
                pid, _, rest = file.read().partition(b" ")
        except OSError:
            continue
        state, _, group = rest.rpartition(b")")[2].split()[:3]
        if state not in b"ZX" and int(group) in groups:
            found[int(group)] = found.get(int(group), False) or int(pid) == int(group)
    return found


def _sent(send: Callable[[int, int], None], target: int, number: int) -> bool:
    try:
        send(target, number)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    wait_for_the_end(float(sys.argv[1]))
