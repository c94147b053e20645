"""A private PostgreSQL."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from mainstay.testing.servers.server import HOST, USER, Server, ServerFailed

__all__ = ["PostgreSQL"]

_HOMES = ("/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql@*/bin")


class PostgreSQL(Server):
    """The newest PostgreSQL of this machine.

    Nothing is synced to disk: data survives a kill of the server, not of the machine.

    PostgreSQL refuses to run as root. Root's server runs in a user namespace, where it sees itself
    as an ordinary user and files still belong to root; where namespaces are closed, it runs as
    the user ``postgres``.
    """

    package = "postgresql"
    stop_signal = signal.SIGINT  # "fast": open transactions are rolled back

    @classmethod
    def program(cls) -> Path | None:
        found = [
            Path(home) / "postgres"
            for pattern in _HOMES
            for home in sorted(Path("/").glob(pattern[1:]), key=_major_version, reverse=True)
            if (home / "postgres").exists()
        ]
        on_path = shutil.which("postgres")
        return found[0] if found else Path(on_path).resolve() if on_path else None

    @property
    def url(self) -> str:
        """The URL of the database ``postgres``; tests better take `create_database`."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://{USER}:{self.password}@{HOST}:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Create an empty database and return its URL."""
        self.sql(f'create database "{name}"')
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        """Drop a database and end the connections to it."""
        self.sql(f'drop database if exists "{name}" with (force)')

    def sql(self, statement: str, *, database: str = "postgres") -> str:
        """Run one statement with ``psql`` and return its rows, a line each, columns split by ``|``.

        Raises:
            RuntimeError: The server refused it.
        """
        command = [str(self._tool("psql")), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        done = subprocess.run(
            [*command, "-d", database, "-c", statement],
            env={**self._environment(), **self._connection()},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"PostgreSQL refused {statement!r}: {done.stderr.strip()}")
        return done.stdout.rstrip("\n")

    def _prepare(self, folder: Path) -> None:
        data, password = folder / "data", folder / "password"
        data.mkdir(mode=0o700)
        password.write_text(self.password)
        (folder / "server.log").touch()
        if _runs_as_another_user():
            folder.chmod(0o711)
            for path in (data, password):
                shutil.chown(path, "postgres", "postgres")
        initdb = [str(self._tool("initdb")), "-D", str(data), "-U", USER, "-E", "UTF8"]
        options = ["--locale=C.UTF-8", "-A", "scram-sha-256", "--pwfile", str(password), "-N"]
        made = subprocess.run(
            [*_as_ordinary_user(), *initdb, *options],
            env=self._environment(),
            cwd=data,
            capture_output=True,
            text=True,
            check=False,
        )
        password.unlink()
        if made.returncode:
            raise ServerFailed(f"initdb failed in {data}: {made.stderr.strip()}")

    def _command(self, program: Path, folder: Path) -> list[str]:
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
            **self.config,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [*_as_ordinary_user(), str(program), "-D", str(folder / "data"), *options]

    def _answers(self) -> bool:
        ask = [str(self._tool("pg_isready")), "-q", "-t", "2"]
        environment = {**self._environment(), **self._connection()}
        return subprocess.run(ask, env=environment, check=False).returncode == 0

    def _connection(self) -> dict[str, str]:
        return {
            "PGHOST": HOST,
            "PGPORT": str(self.port),
            "PGUSER": USER,
            "PGPASSWORD": self.password,
            "PGCONNECT_TIMEOUT": "5",
        }

    def _tool(self, name: str) -> Path:
        program = self.program()
        if program is None:
            raise ServerFailed(f"{self.package} is not installed: apt-get install {self.package}")
        return program.with_name(name)


def _major_version(home: Path) -> int:
    digits = home.parent.name.rpartition("@")[2]
    return int(digits) if digits.isdigit() else 0


def _as_ordinary_user() -> list[str]:
    """Return the words before a command that PostgreSQL then does not see root in."""
    if os.geteuid() != 0:
        return []
    if _runs_as_another_user():
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]
    return list(_NAMESPACE)


_NAMESPACE = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")


@functools.cache
def _runs_as_another_user() -> bool:
    if os.geteuid() != 0:
        return False
    try:
        opened = subprocess.run([*_NAMESPACE, "true"], capture_output=True, check=False)
        if opened.returncode == 0:
            return False
        pwd.getpwnam("postgres")
    except (OSError, KeyError):
        raise ServerFailed(
            "PostgreSQL does not run as root, and here is neither `unshare --user` nor a user "
            "called postgres: run the tests as an ordinary user"
        ) from None
    return True
