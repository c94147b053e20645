"""End what a run of the tests has started when the run ends, however it ends.

`guard` turns the process that calls it into three, each the parent of the next:

======== ====================================================================================
process  what it does
======== ====================================================================================
launcher has the process id that the caller was started with; waits, and forwards signals
watchdog leads another session, so no signal to the process group reaches it; waits too
tests    returns from `guard` and runs the tests
======== ====================================================================================

Launcher and watchdog are subreapers: a process whose parent has died becomes their child, also
when it has changed its session, its process group, its environment or its user. When the process
that one of them waits for has ended, it ends whatever descendants it still has. So any of the three
may be killed with SIGKILL, and another one cleans up. When the launcher is killed, the watchdog
asks the tests to stop.

Tests that come to their end leave no process. When one is left, its command line is printed, and
the exit code is 1 although all tests passed.

Only Linux has subreapers. Elsewhere SIGTERM still stops the tests as Ctrl-C does, and
`mainstay.processes.leash` ends the servers.

As a pytest plugin this module guards the process that runs pytest; ``-p no:tests.watchdog`` turns
that off, for a debugger that cannot follow a fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest

from mainstay.processes import facts
from tests.signals import heed_signals

__all__ = ["become_subreaper", "descendants", "end_descendants", "guard"]

_STOP_SECONDS = 60.0
"""How long the tests may take to stop when they were asked to."""

_PATIENCE_SECONDS = 10.0
"""How long what they have left may take until it is killed."""

_ENDING_SECONDS = 60.0
"""How long processes that were asked to end may take to do so after the tests have ended."""

_POLL_SECONDS = 0.05
_FORWARD_AFTER_SECONDS = 0.5

_FINISHED = (0, 1)
"""Exit codes of tests that came to their end: they passed, or some failed."""

_STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
_ESCAPED = re.compile(r"\\([0-7]{3})")
"""How a blank, a tab, a line end and a backslash stand in ``/proc/self/mounts``."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SI_KERNEL = 0x80


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Guard this process; a worker of pytest-xdist is a descendant of one that is guarded."""
    if hasattr(config, "workerinput"):
        _stop_on_signals()
    else:
        guard()


def guard() -> None:
    """Return in a child process whose descendants end when it does; the caller waits for it and
    exits as it does.

    The child and its descendants put temporary files into a new folder, which is removed at the
    end; only the folders of pytest stay, where they always are. SIGTERM raises `KeyboardInterrupt`.
    """
    if sys.platform != "linux":
        _stop_on_signals()
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    temporary = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="mainstay-tests-"))
    folder.chmod(0o711)  # a server may run as another user
    waited_for = {signal.SIGCHLD, *_STOP_SIGNALS}
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        waited_for.discard(signal.SIGHUP)  # started by nohup
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    for is_watchdog in (False, True):
        become_subreaper()
        parent = os.getpid()
        if child := os.fork():
            if is_watchdog:
                os.setsid()
            _wait_and_clean_up(child, waited_for, folder)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)  # the parent had ended before that call
    _stop_on_signals()
    heed_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", temporary)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def become_subreaper() -> None:
    """Become the parent of every descendant whose own parent dies, unless one nearer to it does."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def descendants() -> set[int]:
    """Return the ids of this process' children, of their children, and so on."""
    children: dict[int, list[int]] = {}
    for pid in facts.pids():
        children.setdefault(facts.parent(pid) or 0, []).append(pid)
    found = [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    return {pid for pid in found[1:] if facts.is_alive(pid)}


def end_descendants() -> None:
    """Ask all descendants of this process to stop, wait, then kill what is left of them."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        asked: set[int] = set()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (running := descendants()) and time.monotonic() < deadline:
            for pid in running - asked:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                    os.kill(pid, signal.SIGCONT)  # a test may have paused it
            asked |= running
            time.sleep(_POLL_SECONDS)
            _reap()


def _stop_on_signals() -> None:
    """Have SIGTERM raise `KeyboardInterrupt`, unless that or SIGINT has done so before.

    A stop request may arrive twice, sent to the process group and forwarded by the launcher, and
    the second one must not interrupt the teardown. A second Ctrl-C does.
    """
    owner, is_stopping = os.getpid(), False

    def interrupt(number: int, _: Any) -> None:
        nonlocal is_stopping
        __tracebackhide__ = True  # pytest shows what was interrupted
        if os.getpid() != owner:  # a fork that runs no other program
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif number == signal.SIGINT or not is_stopping:
            is_stopping = True
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)


def _wait_and_clean_up(child: int, waited_for: set[signal.Signals], folder: Path) -> NoReturn:
    code = 1
    try:
        code = _exit_code(child, waited_for)
        if code in _FINISHED:
            code = _report_descendants() or code
        end_descendants()
        _remove(folder)
    finally:
        os._exit(code)


def _report_descendants() -> int:
    """Print what the tests have left behind; 1 when there is something, else 0."""
    deadline = time.monotonic() + _ENDING_SECONDS
    while (left := descendants()) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        _reap()
    for pid in sorted(left):
        sys.stderr.write(f"left running by the tests: {pid} {facts.command_line(pid)}\n")
    sys.stderr.flush()
    return 1 if left else 0


def _exit_code(child: int, waited_for: set[signal.Signals]) -> int:
    """Wait until *child* ends, and ask it to when a signal says so; 1 when it does not."""
    deadline: float | None = None
    while (code := _reap(child)) is None:
        left = 3600.0 if deadline is None else deadline - time.monotonic()
        if left <= 0:
            return 1
        received = signal.sigtimedwait(waited_for, left)
        # What the terminal sends goes to the whole group, and so to the tests as well.
        if received and received.si_signo != signal.SIGCHLD and received.si_code != _SI_KERNEL:
            time.sleep(_FORWARD_AFTER_SECONDS)  # what was sent to the group arrives first
            deadline = deadline or time.monotonic() + _STOP_SECONDS
            os.kill(child, signal.SIGTERM)
    return code


def _reap(child: int = 0) -> int | None:
    """Wait for what has ended, *child* or an orphan; return the exit code of *child*, as a shell
    gives it.
    """
    code = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                code = os.waitstatus_to_exitcode(ended[1])
    return 128 - code if code is not None and code < 0 else code


def _remove(folder: Path) -> None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        place = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), line.split()[1])
        if place.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", place], check=False)
    shutil.rmtree(folder, ignore_errors=True)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl failed")
