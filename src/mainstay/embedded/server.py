"""What every embedded server has in common: started, adopted, watched and stopped."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from mainstay.errors import Unavailable
from mainstay.processes import facts, ports
from mainstay.processes.state import write_private

__all__ = ["Server"]

HOST = "127.0.0.1"
_DYING_SECONDS = 0.5


def _ignore(_: Any) -> None:
    pass


class Server(ABC):
    """One embedded server and the folder it lives in.

    Args:
        folder: What the server keeps: its data, its log, its password and its last port.
        note: Told in a line of text what takes long.
        hold: Told the process group of the server as soon as it exists, so that a leash can
            end it whatever happens next.
        release: Told the process group once it has ended.
    """

    title: ClassVar[str]
    program: ClassVar[str]
    variable: ClassVar[str]
    """The environment variable that names a server of one's own instead."""

    # After `kill -9` what is left of the old server may stand in the way for some seconds.
    retry_seconds: ClassVar[float] = 12.0
    ready_seconds: ClassVar[float] = 60.0
    stop_signals: ClassVar[Sequence[tuple[signal.Signals, float]]]

    def __init__(
        self,
        folder: Path,
        *,
        note: Callable[[str], None] = _ignore,
        hold: Callable[[int], None] = _ignore,
        release: Callable[[int], None] = _ignore,
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = 0
        self.pid: int | None = None
        self.adopted = False
        self._note, self._hold, self._release = note, hold, release
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers; adopt one that was left running.

        Raises:
            Misconfigured: This platform or user cannot run it; the message says what to set.
            Unavailable: It does not come up; the message has the end of its log.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._prepare()
        if self._adopt():
            return
        deadline = time.monotonic() + self.retry_seconds
        while not self._launch():
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{self.title} does not start in {self.folder}. The end of its log:\n"
                    f"{self._log_tail()}\n"
                    f"Mend what it names, empty the folder with `mainstay dev --reset`, or set "
                    f"{self.variable} to a server of your own."
                )
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop the server, gently first; nothing happens where none runs. May be called twice."""
        pid, self.pid = self.pid, None
        if pid is None:
            return
        for number, patience_seconds in self.stop_signals:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                break
            if self._ends(pid, patience_seconds):
                break
        with suppress(OSError):  # mostly nobody is left in its group
            os.killpg(pid, signal.SIGKILL)
        self._ends(pid, 5.0)
        self._child = None
        self._release(pid)

    def stop_left_running(self) -> bool:
        """Stop a server that an earlier run left behind; tell whether there was one."""
        self.pid = self._left_running()
        found = self.pid is not None
        self.stop()
        return found

    def is_running(self) -> bool:
        """Tell whether the server's process is alive."""
        if self.pid is None:
            return False
        if self._child is not None:
            return self._child.poll() is None
        return facts.is_alive(self.pid)

    @property
    def log(self) -> Path:
        """What the server itself has written."""
        return self.folder / "log"

    @property
    def password(self) -> str:
        """The generated password, kept beside the data for this user alone."""
        if not self._has_password():
            write_private(self._password_file, secrets.token_urlsafe(24))
        return self._password_file.read_text().strip()

    @property
    def _password_file(self) -> Path:
        return self.folder / "password"

    def _has_password(self) -> bool:
        return self._password_file.exists()

    @abstractmethod
    def _prepare(self) -> None:
        """Make what must be there before the first start."""

    @abstractmethod
    def _command(self) -> Sequence[str | os.PathLike[str]]:
        """Return the command line that serves ``data`` on ``port``."""

    @abstractmethod
    def _pid_file(self) -> Path:
        """Return the file in ``data`` whose first line the server keeps its process id in."""

    @abstractmethod
    def _answers(self) -> bool:
        """Tell whether the server takes work."""

    def _clear(self) -> None:  # noqa: B027 (most servers leave nothing in the way)
        """Remove what a dead server has left and what keeps a new one from starting."""

    def _spawn_options(self) -> dict[str, Any]:
        return {}

    def _adopt(self) -> bool:
        pid = self._left_running()
        if pid is None:
            return False
        self.pid, self.port = pid, self._kept_port() or 0
        self._hold(pid)
        if self.port and self._answers():
            self.adopted = True
            return True
        self.stop()
        return False

    def _left_running(self) -> int | None:
        try:
            pid = int(self._pid_file().read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None
        # The number may belong to somebody else by now: it is ours if it runs the program in
        # our folder.
        program = facts.executable(pid)
        if program is None or program.name != self.program or not facts.is_alive(pid):
            return None
        return pid if facts.working_folder(pid) == self.data.resolve() else None

    def _launch(self) -> bool:
        self._clear()
        self.port = self._choose_port()
        # Kept before the start: who finds the server later also finds its port.
        write_private(self.folder / "port", f"{self.port}\n")
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                [os.fspath(part) for part in self._command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._spawn_options(),
            )
        self._hold(child.pid)
        self.pid, self._child = child.pid, child
        deadline = time.monotonic() + self.ready_seconds
        while child.poll() is None and time.monotonic() < deadline:
            if self._answers():
                return True
            time.sleep(0.01)
        self.stop()
        return False

    def _choose_port(self) -> int:
        """Return the port of last time, where it is free: addresses then stay what they were."""
        kept = self._kept_port()
        deadline = time.monotonic() + _DYING_SECONDS
        while kept is not None and time.monotonic() < deadline:
            if ports.is_free(kept):
                return kept
            time.sleep(0.02)  # mostly its last holder, which was killed a moment ago
        return ports.steady_port()

    def _kept_port(self) -> int | None:
        try:
            return int((self.folder / "port").read_text())
        except (OSError, ValueError):
            return None

    def _ends(self, pid: int, patience_seconds: float) -> bool:
        deadline = time.monotonic() + patience_seconds
        while time.monotonic() < deadline:
            ended = self._child.poll() is not None if self._child else not facts.is_alive(pid)
            if ended:
                return True
            time.sleep(0.01)
        return False

    def _log_tail(self, lines: int = 12) -> str:
        try:
            text = self.log.read_text(errors="replace")
        except OSError:
            return "  (none)"
        return "\n".join(f"  {line}" for line in text.splitlines()[-lines:]) or "  (empty)"
