"""A private Redis."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

from mainstay.testing.servers.server import HOST, Server

__all__ = ["Redis", "send"]


class Redis(Server):
    """The system's ``redis-server``; each write is in its append-only file before its answer."""

    package = "redis-server"

    @classmethod
    def program(cls) -> Path | None:
        found = shutil.which("redis-server")
        return Path(found) if found else None

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{HOST}:{self.port}/0"

    def clear(self) -> None:
        """Remove every key of every database, and every function."""
        self.command("FLUSHALL")
        self.command("FUNCTION FLUSH")

    def command(self, line: str) -> str:
        """Send one command as a line and return the first line of the answer.

        Raises:
            RuntimeError: The server refused it.
        """
        return send(self.port, self.password, line)

    def _prepare(self, folder: Path) -> None:
        settings = {
            "bind": HOST,
            "port": str(self.port),
            "dir": str(folder),
            "daemonize": "no",
            "requirepass": self.password,
            "save": '""',
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            **self.config,
        }
        # A file, not arguments: those are shown to every user of the machine.
        (folder / "redis.conf").write_text("".join(f"{k} {v}\n" for k, v in settings.items()))

    def _command(self, program: Path, folder: Path) -> list[str]:
        return [str(program), str(folder / "redis.conf")]

    def _answers(self) -> bool:
        try:
            return self.command("PING") == "PONG"
        except RuntimeError:  # still loading its data
            return False


def send(port: int, password: str, line: str) -> str:
    """Send one command to a Redis or Valkey on loopback and return its answer's first line.

    Raises:
        RuntimeError: The server refused it.
    """
    with socket.create_connection((HOST, port), timeout=5.0) as connection:
        connection.sendall(f"AUTH {password}\r\n{line}\r\n".encode())
        with connection.makefile("rb") as answers:
            # The first answer is to AUTH.
            said = [answers.readline().decode().strip() for _ in range(2)]
    for answer in said:
        if answer.startswith("-") or not answer:
            raise RuntimeError(f"Redis refused {line!r}: {answer or 'no answer'}")
    return said[1].lstrip("+:$")
