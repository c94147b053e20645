"""PostgreSQL out of a wheel."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mainstay.embedded.homes import Home, find_home
from mainstay.embedded.server import HOST, Server
from mainstay.errors import Unavailable
from mainstay.processes import facts
from mainstay.processes.state import write_private

__all__ = ["Postgres"]

USER = "app"

# The one question of its protocol that needs no login: "encrypted?", answered by N(o) or S(sl).
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


class Postgres(Server):
    """PostgreSQL, for one project: loopback only, one user with a generated password."""

    title = "PostgreSQL"
    program = "postgres"
    variable = "DATABASE_URL"
    # SIGINT ends sessions and shuts down cleanly, SIGQUIT leaves the rest to recovery.
    stop_signals: ClassVar[Sequence[tuple[signal.Signals, float]]] = (
        (signal.SIGINT, 10.0),
        (signal.SIGQUIT, 3.0),
    )

    _home: Home | None = None

    def url(self, database: str) -> str:
        """Return the address of *database*, the password included."""
        return f"postgresql://{USER}:{self.password}@{HOST}:{self.port}/{database}"

    def create_database(self, name: str) -> bool:
        """Create the database *name* unless it is there; tell whether it was made now.

        Raises:
            Unavailable: The server did not do it; the message has its answer.
        """
        statement = (
            "SELECT format('CREATE DATABASE %I', :'name') WHERE NOT EXISTS "
            "(SELECT FROM pg_database WHERE datname = :'name') \\gexec"
        )
        done = subprocess.run(
            [
                *(str(self._located.binaries / "psql"), "-X", "-v", "ON_ERROR_STOP=1"),
                *("-h", HOST, "-p", str(self.port), "-U", USER, "-d", "postgres"),
                *("-v", f"name={name}"),
            ],
            input=statement,
            env={"PGPASSWORD": self.password, "PGCONNECT_TIMEOUT": "10", "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise Unavailable(
                f"the database {name!r} could not be created in the embedded PostgreSQL: "
                f"{done.stderr.strip()}; its log is {self.log}"
            )
        return "CREATE DATABASE" in done.stdout

    def erase(self) -> None:
        """Remove what the server keeps outside its folder; it must not run."""
        if self._located.elsewhere is not None:
            shutil.rmtree(self._located.elsewhere)

    @property
    def _located(self) -> Home:
        if self._home is None:
            self._home = find_home(self.folder)
            self.data = self._home.data
        return self._home

    def _prepare(self) -> None:
        home = self._located
        if home.elsewhere is not None and not self._has_password():
            # The folder was removed, and with it the password; its data is nobody's any more.
            shutil.rmtree(home.data, ignore_errors=True)
        if (home.data / "PG_VERSION").exists():
            return
        self._note("PostgreSQL: preparing its data folder, once …")
        # Made beside and moved into place, so that a half-made folder is never taken for a whole.
        draft = home.data.with_name("data.new")
        shutil.rmtree(draft, ignore_errors=True)
        password_file = home.data.with_name("password.new")
        write_private(password_file, self.password)
        if "user" in home.spawn_options:
            os.chown(password_file, home.spawn_options["user"], -1)
        done = subprocess.run(
            [
                *(*home.prefix, str(home.binaries / "initdb"), "-D", str(draft), "-U", USER),
                *(
                    "--auth=scram-sha-256",
                    f"--pwfile={password_file}",
                    "--encoding=UTF8",
                    "--no-sync",
                ),
                *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=_environment(),
            check=False,
            **home.spawn_options,
        )
        password_file.unlink()
        if done.returncode:
            raise Unavailable(
                f"PostgreSQL could not prepare its data folder {home.data}: "
                f"{(done.stderr or done.stdout).strip()}. Set DATABASE_URL to a server of your "
                f"own if this cannot be mended."
            )
        draft.rename(home.data)

    def _command(self) -> Sequence[str | os.PathLike[str]]:
        home = self._located
        settings: dict[str, object] = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 200,
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        return (
            *(*home.prefix, str(home.binaries / "postgres"), "-D", str(home.data)),
            *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
        )

    def _clear(self) -> None:
        # PostgreSQL takes a killed postmaster that nobody has waited for, a zombie, for a living
        # one, and in a container whose first process reaps nobody it stays one for ever.
        try:
            pid = int(self._pid_file().read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return
        if facts.is_zombie(pid) and not self._has_sessions():
            self._pid_file().unlink(missing_ok=True)

    def _has_sessions(self) -> bool:
        folder = self._located.data.resolve()
        return any(
            facts.working_folder(pid) == folder and facts.is_alive(pid) for pid in facts.pids()
        )

    def _spawn_options(self) -> dict[str, Any]:
        return {**self._located.spawn_options, "env": _environment()}

    def _pid_file(self) -> Path:
        return self._located.data / "postmaster.pid"

    def _answers(self) -> bool:
        # Its lines: process, folder, start, port, sockets, host, shared memory, state. An old
        # server's file may lie there until the new one has written its own.
        try:
            lines = self._pid_file().read_text().split("\n")
        except OSError:
            return False
        written = len(lines) > 7 and lines[7].strip() == "ready"
        return (
            written
            and (lines[0], lines[3]) == (str(self.pid), str(self.port))
            and _takes_connections(self.port)
        )


def _takes_connections(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(_SSL_REQUEST)
            return connection.recv(1) in (b"N", b"S")
    except OSError:
        return False


def _environment() -> dict[str, str]:
    # Nothing of ours concerns it, and variables such as PGPORT or LC_ALL would mislead it.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
