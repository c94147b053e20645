"""How is a private server started, stopped, killed, paused, and never left behind?"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from mainstay.errors import MainstayError
from mainstay.processes import facts
from mainstay.processes.leash import SERVERS, Leash
from mainstay.testing.ports import steady_port

__all__ = ["Server", "ServerFailed"]

HOST = "127.0.0.1"
USER = "mainstay"
_POLL_SECONDS = 0.02
_STOP_SECONDS = 20.0


class ServerFailed(MainstayError):
    """A server did not start; the message ends with the last lines of its log."""


class Server(ABC):
    """A private server: its own process, ports, data folder and password.

    Ports and data stay the same over `stop`, `kill` and `start`, so clients can reconnect. All of
    it ends with `close`, and also when this process dies, however it dies.

    Args:
        config: Settings of the server in its own words, on top of those that keep it private.
        start_timeout_seconds: How long the server may take until it answers.
    """

    package: ClassVar[str]
    """The Debian package that installs it."""

    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(
        self, *, config: Mapping[str, str] | None = None, start_timeout_seconds: float = 60.0
    ) -> None:
        self.config = dict(config or {})
        self.password = secrets.token_hex(16)
        self.port = steady_port()
        self._start_timeout_seconds = start_timeout_seconds
        self._folder: Path | None = None
        self._leash = Leash()
        self._process: subprocess.Popen[bytes] | None = None
        self._has_answered = False

    @classmethod
    @abstractmethod
    def program(cls) -> Path | None:
        """Return the server's program, or ``None`` when it is not installed."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find it, with user and password."""

    @property
    def folder(self) -> Path:
        """The folder of its data, settings and log; removed by `close`."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix=f"mainstay-{self.package}-"))
            self._prepare(self._folder)
        return self._folder

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def pid(self) -> int | None:
        """The server's process, or ``None`` when it is down."""
        return self._process.pid if self._process is not None and self.is_running() else None

    def is_running(self) -> bool:
        """Tell whether there is a process; a paused one counts."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start it and return when it answers; what runs already is only resumed.

        Raises:
            ServerFailed: It is not installed, ended at once, or did not answer in time.
        """
        if self.is_running():
            self.resume()
            return self
        program = self.program()
        if program is None:
            raise ServerFailed(f"{self.package} is not installed: apt-get install {self.package}")
        deadline = time.monotonic() + self._start_timeout_seconds
        while True:
            self._process = self._spawn(self._command(program, self.folder), self._environment())
            if self._comes_up(self._process, deadline):
                self._has_answered = True
                return self
            # After a kill the dead server's children may hold the data for a few seconds more.
            if self.is_running() or not self._has_answered or time.monotonic() > deadline:
                log = self._last_lines()
                self.kill()
                raise ServerFailed(f"{self.package} did not start. Its log ends with:\n{log}")
            time.sleep(_POLL_SECONDS * 5)

    def stop(self) -> None:
        """Ask it to end and wait; its data stays. May be called twice."""
        process = self._process
        if process is None:
            return
        self.resume()
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(self.stop_signal)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._leash.release(process.pid)
        self._process = None

    def kill(self) -> None:
        """End it and all of its children with SIGKILL, as a power cut would; its data stays."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            _send(signal.SIGKILL, _tree(process.pid))
            process.wait()
        self._leash.release(process.pid)
        self._process = None

    def pause(self) -> None:
        """Stop the clock for it and its children (SIGSTOP): it holds its connections, mute."""
        if self.pid is not None:
            _send(signal.SIGSTOP, _tree(self.pid))

    def resume(self) -> None:
        """Let a paused server go on."""
        if self.pid is not None:
            _send(signal.SIGCONT, _tree(self.pid))

    def close(self) -> None:
        """Stop it and remove its data. May be called twice."""
        self.stop()
        self._leash.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def _prepare(self, folder: Path) -> None:
        """Write what the server needs into its new *folder*."""

    @abstractmethod
    def _command(self, program: Path, folder: Path) -> list[str]:
        """Return the command that runs the server in the foreground."""

    @abstractmethod
    def _answers(self) -> bool:
        """Ask the server whether it takes work; an `OSError` is a no."""

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}

    def _spawn(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own: Ctrl-C is for the tests, and the leash ends whole groups.
                start_new_session=True,
            )
        self._leash.hold(process.pid, SERVERS)
        return process

    def _comes_up(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                # Asked first, looked at second: another server on this port would answer too.
                if self._answers() and process.poll() is None:
                    return True
            time.sleep(_POLL_SECONDS)
        return False

    def _last_lines(self, count: int = 20) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])


def _tree(pid: int) -> list[int]:
    """Return *pid* and all that descend from it, parents first."""
    children: dict[int, list[int]] = {}
    for process in facts.pids():
        children.setdefault(facts.parent(process) or 0, []).append(process)
    found = [pid]
    for process in found:
        found += children.get(process, [])
    return found


def _send(number: signal.Signals, pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
