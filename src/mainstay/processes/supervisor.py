"""Keeps a project's processes running, and stops them all.

One session, and so one process group, for each; a thread that reads its lines and a thread that
waits for its end. The main thread alone decides: it takes what happens out of one queue.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

from mainstay.errors import Misconfigured
from mainstay.processes.leash import Leash
from mainstay.processes.output import Output
from mainstay.processes.start import NOT_IMPORTED

__all__ = ["Launch", "Supervisor", "backoff_seconds", "describe_end"]

# After this long a process counts as having run well, and its next failure as its first.
STEADY_SECONDS = 10.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Launch:
    """How one process is started, and how long it may take to stop.

    ``patience_seconds`` is longer than the process's own grace: who is killed has had its time.
    What ``stops_first`` has ended before the others are asked to: requests in hand need them.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    folder: Path
    patience_seconds: float = 30.0
    stops_first: bool = False
    prepare: Callable[[], None] = lambda: None


def backoff_seconds(failures: int) -> float:
    """Return the pause before the start that follows *failures* in a row: 0.1 s up to 5 s."""
    return float(min(5.0, 0.1 * 2 ** min(failures, 10)))


def describe_end(code: int) -> str:
    """Say how a process ended, from what ``wait`` returned."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}"


@dataclass(slots=True)
class _Child:
    launch: Launch
    process: subprocess.Popen[bytes] | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    reader: threading.Thread | None = None
    started_at: float = 0.0
    due_at: float | None = None
    failures: int = 0
    refused: bool = False
    asked_to_stop: bool = False


@dataclass(frozen=True, slots=True)
class _Ended:
    child: _Child
    process: subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class _Changed:
    names: frozenset[str]
    reason: str


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


class Supervisor:
    """Runs *launches* until it is told to stop.

    Args:
        launches: The processes.
        leash: Ends them when this process is gone.
        note: Told in a line of text what happens.
        output: Takes the processes' lines; without one they write where this process writes.
        waits_for_change: A process that refuses its configuration (exit code 78) waits for
            `restart`, and so does one that cannot be imported. Else the first stops everything,
            and its code is returned, and the second is started again as whatever ends is.
    """

    def __init__(
        self,
        launches: Iterable[Launch],
        *,
        leash: Leash,
        note: Callable[[str], None],
        output: Output | None = None,
        waits_for_change: bool = False,
    ) -> None:
        self._children = {launch.name: _Child(launch) for launch in launches}
        self._leash, self._note, self._output = leash, note, output
        self._waits_for_change = waits_for_change
        self._events: SimpleQueue[_Ended | _Changed | _Stop] = SimpleQueue()
        # Plain values, because signal handlers set them and may take no lock.
        self._ending = False
        self._hurry = False

    def run(self) -> int:
        """Start everything, keep it running, and return the exit code: 0 after `stop`."""
        try:
            for child in self._children.values():
                self._start(child)
            while not self.refused or self._waits_for_change:
                match self._next_event():
                    case _Ended(child, process) if process is child.process:
                        self._has_ended(child, process)
                    case _Changed(names, reason):
                        self._restart(names, reason)
                    case _Stop():
                        self._note("stopping; Ctrl-C again ends everything at once")
                        return 0
                    case _:
                        pass
                self._start_due()
            return Misconfigured.exit_code
        finally:
            self._ending = True
            self._stop_all(self._children.values())

    def stop(self) -> None:
        """Stop everything in order; asked a second time, kill what is left.

        May be called by signal handlers and from any thread.
        """
        self._hurry = self._ending
        self._ending = True
        self._events.put(_Stop())

    def restart(self, names: Iterable[str], reason: str) -> None:
        """Stop and start *names*, those that wait included. May be called from any thread."""
        self._events.put(_Changed(frozenset(names), reason))

    @property
    def refused(self) -> set[str]:
        """The processes that wait for a change, and so do not run."""
        return {name for name, child in self._children.items() if child.refused}

    @property
    def failing(self) -> set[str]:
        """The processes that ended by themselves and have not run well since; those that wait for a
        change among them.
        """
        steady_since = time.monotonic() - STEADY_SECONDS
        return {
            name
            for name, child in self._children.items()
            if child.refused
            or (child.failures and (child.process is None or child.started_at > steady_since))
        }

    @property
    def is_ending(self) -> bool:
        return self._ending

    def pids(self) -> dict[str, int]:
        """Return the process id of everything that runs."""
        return {name: child.process.pid for name, child in self._children.items() if child.process}

    def _next_event(self) -> _Ended | _Changed | _Stop | None:
        due = [child.due_at for child in self._children.values() if child.due_at is not None]
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        try:
            return self._events.get(timeout=timeout)
        except Empty:
            return None

    def _start(self, child: _Child) -> None:
        launch = child.launch
        child.due_at, child.refused, child.asked_to_stop = None, False, False
        try:
            launch.prepare()
            process = subprocess.Popen(
                list(launch.command),
                env=dict(launch.env),
                cwd=launch.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if self._output else None,
                stderr=subprocess.STDOUT if self._output else None,
                start_new_session=True,
            )
        except OSError as error:
            child.refused = True
            what = error.filename or launch.command[0]
            self._note(f"{launch.name} cannot be started: {what}: {error.strerror}")
            return
        self._leash.hold(process.pid)
        child.process, child.started_at, child.ended = process, time.monotonic(), threading.Event()
        if self._output is not None:
            child.reader = threading.Thread(
                target=self._read, args=(launch.name, process, self._output), daemon=True
            )
            child.reader.start()
        threading.Thread(target=self._wait, args=(child, process, child.ended), daemon=True).start()

    @staticmethod
    def _read(name: str, process: subprocess.Popen[bytes], output: Output) -> None:
        if process.stdout is not None:
            with process.stdout as lines:
                for line in lines:
                    output.line(name, line)

    def _wait(
        self, child: _Child, process: subprocess.Popen[bytes], ended: threading.Event
    ) -> None:
        # In a thread, because a grandchild that holds the pipe would keep a reader of it waiting.
        process.wait()
        ended.set()
        self._events.put(_Ended(child, process))

    def _has_ended(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        name = child.launch.name
        self._bury(child)
        if child.asked_to_stop:
            return
        if why := self._refusal(process.returncode):
            child.refused = True
            then = "it starts again when a file changes" if self._waits_for_change else "stopping"
            self._note(f"{name} {why}, as its lines above say; {then}")
            return
        if time.monotonic() - child.started_at >= STEADY_SECONDS:
            child.failures = 0
        pause = backoff_seconds(child.failures)
        child.failures += 1
        child.due_at = time.monotonic() + pause
        self._note(f"{name} {describe_end(process.returncode)}; starting it again in {pause:g} s")

    def _refusal(self, code: int) -> str | None:
        if code == Misconfigured.exit_code:
            return "refuses its configuration"
        if code == NOT_IMPORTED and self._waits_for_change:
            return "cannot be imported"
        return None

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if child.due_at is not None and child.due_at <= now:
                self._start(child)

    def _restart(self, names: frozenset[str], reason: str) -> None:
        children = [child for name, child in self._children.items() if name in names]
        if not children:
            return
        self._note(f"{reason}: starting {', '.join(each.launch.name for each in children)} again")
        self._stop_all(children, unless_ending=True)
        if not self._ending:
            for child in children:
                child.failures = 0
                self._start(child)

    def _stop_all(self, children: Iterable[_Child], *, unless_ending: bool = False) -> None:
        running = [child for child in children if child.process is not None]
        for is_first in (True, False):
            wave = [child for child in running if child.launch.stops_first is is_first]
            self._stop_wave(wave, unless_ending=unless_ending)

    def _stop_wave(self, running: Sequence[_Child], *, unless_ending: bool) -> None:
        """Ask the leaders, wait, kill the groups; leave off when all is to end."""
        began = time.monotonic()
        for child in running:
            # The leader alone: uvicorn and Celery stop their own children, warmly.
            if child.process is not None and not child.asked_to_stop:
                child.asked_to_stop = True
                child.process.send_signal(signal.SIGTERM)
        while not self._hurry:
            waited = time.monotonic() - began
            if not any(
                not child.ended.is_set() and waited < child.launch.patience_seconds
                for child in running
            ):
                break
            if unless_ending and self._ending:
                return
            time.sleep(_POLL_SECONDS)
        for child in running:
            if not child.ended.is_set():
                self._note(f"{child.launch.name} has not stopped in time and is killed")
            self._bury(child)

    def _bury(self, child: _Child) -> None:
        process, child.process = child.process, None
        if process is None:
            return
        with suppress(OSError):  # mostly nobody is left in its group
            os.killpg(process.pid, signal.SIGKILL)
        child.ended.wait(5.0)
        self._leash.release(process.pid)
        if child.reader is not None:
            child.reader.join(0.3)  # its last words come before what is said of its end
