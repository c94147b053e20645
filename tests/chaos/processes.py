"""How are the processes under test started, watched, killed and started again?

As a supervisor does it in production: what ends is started again at once. What ended without
being asked to is remembered, because no process may die that nobody killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainstay.failpoints import VARIABLE
from tests.chaos.waiting import LIMIT_SECONDS, until

__all__ = ["Crash", "Process"]

ROOT = Path(__file__).parents[2]
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR")
_WATCH_SECONDS = 0.05
_STATUS_SECONDS = 30.0
_LAST_WORDS_BYTES = 6_000
_FAILPOINT = re.compile(r"^failpoint (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Crash:
    """The end of a process that nobody asked for: when (seconds since the epoch), and what it had
    said last.
    """

    code: int
    at: float
    last_words: str


class Process:
    """One process of the service under test.

    Args:
        name: What to call it in messages.
        command: What follows ``python``.
        environment: On top of an almost empty one.
        log: Where its output goes.
        port: Of its ``/ready``.
        lives: Failpoints of its first lives, one after the other; the next one has none of its own.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        port: int,
        lives: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.port = port
        self.log = log
        self.crashes: list[Crash] = []
        """The ends that nobody asked for."""
        self._command = [sys.executable, "-W", "ignore", *command]
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        self._environment = kept | dict(environment)
        self._lives = list(lives)
        self._is_armed = False
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_wanted = False
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    @property
    def pid(self) -> int:
        """The main process' pid; of one that is down, 0."""
        with self._lock:
            process = self._process
            return process.pid if process is not None and process.poll() is None else 0

    @property
    def children(self) -> list[int]:
        """The pids of what the main process has started."""
        found: list[int] = []
        for task in Path(f"/proc/{self.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, task.read_text().split())
        return found

    @property
    def failpoints(self) -> Counter[str]:
        """How often each failpoint has done what it was told to."""
        return Counter(_FAILPOINT.findall(self.log.read_text(errors="replace")))

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return what it has logged under *event*."""
        lines = self.log.read_bytes().splitlines()
        found = [json.loads(line) for line in lines if line.startswith(b"{") and line[-1:] == b"}"]
        return [line for line in found if line.get("event") == event]

    def last_words(self) -> str:
        """Return the end of its log."""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - _LAST_WORDS_BYTES))
            return log.read().decode(errors="replace")

    def start(self) -> Process:
        """Start it, and from now on start it again whenever it ends."""
        with self._lock:
            self._is_wanted = True
            self._spawn()
        if not self._watcher.is_alive():
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        return self

    def ready(self, *, timeout_seconds: float = LIMIT_SECONDS) -> Process:
        """Return when it says that it takes work."""
        until(lambda: self.status("/ready") == 200, timeout_seconds=timeout_seconds)
        return self

    def status(self, path: str) -> int:
        """Ask its own port; 0 when nothing answers."""
        try:
            url = f"http://127.0.0.1:{self.port}{path}"
            with urllib.request.urlopen(url, timeout=_STATUS_SECONDS) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def kill(self) -> int:
        """End the main process with SIGKILL; returns its pid, 0 when it was down."""
        with self._lock:
            pid = self.pid
            if pid:
                self._end(signal.SIGKILL)
            return pid

    def kill_group(self) -> int:
        """End the main process and all it started with SIGKILL; returns its pid."""
        with self._lock:
            pid = self.pid
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                self._end(signal.SIGKILL)
            return pid

    def terminate(self, *, timeout_seconds: float = LIMIT_SECONDS) -> int:
        """Ask it to stop, and return its exit code; it is started again."""
        with self._lock:
            return self._end(signal.SIGTERM, timeout_seconds) if self.pid else 0

    def evict(self, grace_seconds: float) -> int:
        """Ask it to stop, and end it and all it started with SIGKILL when its time is over, as an
        orchestrator does; returns its exit code. It is started again.
        """
        with self._lock:
            process, self._process = self._process, None
            if process is None:
                return 0
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace_seconds)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return process.wait()

    def pause(self) -> None:
        """Freeze the main process (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen one go on."""
        self._signal(signal.SIGCONT)

    def stop(self, *, timeout_seconds: float = LIMIT_SECONDS) -> int:
        """Ask it to stop and do not start it again; returns its exit code."""
        with self._lock:
            self._is_wanted = False
            self.resume()
            return self._end(signal.SIGTERM, timeout_seconds) if self.pid else 0

    def tell(
        self,
        *numbers: signal.Signals,
        pause_seconds: float = 0.0,
        timeout_seconds: float = LIMIT_SECONDS,
    ) -> int:
        """Send it signals, one after the other, and return its exit code; it stays down."""
        with self._lock:
            self._is_wanted = False
            for number in numbers[:-1]:
                self._signal(number)
                time.sleep(pause_seconds)
            return self._end(numbers[-1], timeout_seconds)

    @staticmethod
    def left_by(pid: int) -> list[int]:
        """Return what lives of the processes that *pid* had started, which it led."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, group = path.read_text().rpartition(")")[2].split()[:3]
                if int(group) == pid and state != "Z":
                    found.append(int(path.parent.name))
        return found

    def close(self) -> None:
        """End it however it is. May be called twice."""
        with self._lock:
            self._is_wanted = False
            self.kill_group()

    def _spawn(self) -> None:
        environment = dict(self._environment)
        if self._lives:
            environment[VARIABLE] = self._lives.pop(0)
        self._is_armed = VARIABLE in environment
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _end(self, number: signal.Signals, timeout_seconds: float = LIMIT_SECONDS) -> int:
        process = self._process
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        if pid := self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _watch(self) -> None:
        while True:
            time.sleep(_WATCH_SECONDS)
            with self._lock:
                if not self._is_wanted:
                    return
                if self._process is not None and (code := self._process.poll()) is not None:
                    if code != -signal.SIGKILL or not self._is_armed:
                        self.crashes.append(Crash(code, time.time(), self.last_words()))
                    self._process = None
                if self._process is None:
                    self._spawn()
