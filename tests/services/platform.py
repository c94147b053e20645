"""Services as their users have them: real processes, real sockets, nothing imported."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from mainstay.auth import Tokens
from mainstay.config import Settings
from mainstay.testing.wait import eventually
from tests.waiting import PATIENCE_SECONDS

__all__ = ["SERVICES", "Platform", "environment", "on_embedded", "on_servers", "write_service"]

SERVICES = Path(__file__).parents[2] / "services"
START_TIMEOUT_SECONDS = 240
STOP_TIMEOUT_SECONDS = 90

# What a busy machine takes longer for is not to be refused, unless a test is about that.
PATIENT = {
    "APP_REQUEST_TIMEOUT_SECONDS": "60",
    "APP_RPC_TIMEOUT_SECONDS": "60",
    "APP_DB_POOL_TIMEOUT_SECONDS": "60",
}

# What a developer's shell may name must not reach the processes under test.
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "CI")


def environment(**values: str) -> dict[str, str]:
    """Return the environment of a process under test: almost empty, and *values*."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | values


def write_service(folder: Path, service: str, manifest: str) -> None:
    """Copy *service* into *folder*, with a project's *manifest*."""
    ignored = shutil.ignore_patterns("__pycache__", ".env")
    shutil.copytree(SERVICES / service, folder / "services" / service, ignore=ignored)
    folder.joinpath("mainstay.toml").write_text(manifest)


class Platform:
    """The processes of one `mainstay dev` or `mainstay run`, and how to talk to them.

    Args:
        folder: A project folder, with its ``mainstay.toml``.
        command: What follows ``mainstay``.
        env: The whole environment of the command.
        ports: Of the processes; the first is that of the API.
        token: Shown by the client, where one is needed.
    """

    def __init__(
        self,
        folder: Path,
        command: Sequence[str],
        env: Mapping[str, str],
        ports: Sequence[int],
        *,
        token: str = "",
    ) -> None:
        self.folder = folder
        self.env = dict(env)
        self.ports = tuple(ports)
        self.token = token
        self.url = f"http://127.0.0.1:{ports[0]}"
        self._command = command
        self._log = folder / "output.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def start(self) -> Platform:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mainstay", *self._command],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            eventually(self.is_ready, timeout_seconds=START_TIMEOUT_SECONDS, every_seconds=0.1)
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"the platform did not start: {self.output[-4000:]}") from error
        return self

    def is_ready(self) -> bool:
        """Are all processes ready? Fails at once when the command has ended."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"mainstay ended with {self._process.returncode}")
        return all(
            httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5).status_code == 200
            for port in self.ports
        )

    def stop(self) -> int:
        """Ask it to stop as Ctrl-C does, and return its exit code."""
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            return process.wait(STOP_TIMEOUT_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run another `mainstay …` beside it, as from a second terminal."""
        return subprocess.run(
            [sys.executable, "-m", "mainstay", *command],
            cwd=self.folder,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    def pids(self, process: str) -> list[int]:
        """Return the pids of *process* and its children."""
        marks = (f"MAINSTAY_PROCESS={process}", str(self.folder))
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environ = folder.joinpath("environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if all(mark in environ for mark in marks):
                found.append(int(folder.name))
        return found

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def lines(self, **wanted: object) -> list[dict[str, Any]]:
        """Return the log lines that have all of *wanted*."""
        found = []
        for line in self.output.splitlines():
            # `dev` writes the process before each line; `run`, without a terminal, only the line.
            try:
                fields = json.loads(line[max(line.find("{"), 0) :])
            except json.JSONDecodeError:
                continue  # a line for people, or one that is still being written
            if all(fields.get(name) == value for name, value in wanted.items()):
                found.append(fields)
        return found


@contextmanager
def on_embedded(folder: Path, ports: Sequence[int], **values: str) -> Iterator[Platform]:
    """Run the project in *folder* on embedded servers, as a developer does."""
    env = PATIENT | environment(**values)
    platform = Platform(folder, ["dev", "--no-reload"], env, ports)
    yield platform.start()
    assert platform.stop() == 0


@contextmanager
def on_servers(
    folder: Path, ports: Sequence[int], service: str, **values: str
) -> Iterator[Platform]:
    """Run *service*, of the project in *folder*, on the servers that *values* name."""
    secret = secrets.token_hex(32)
    env = PATIENT | environment(
        JWT_SECRET_KEY=secret,
        APP_HOST="127.0.0.1",
        APP_RATE_LIMIT="none",
        APP_DRAIN_DELAY_SECONDS="0",
        **values,
    )
    settings = Settings(env="test", service_name=service, jwt_secret_key=secret)
    token = Tokens(settings).issue("ann", life_seconds=80_000)
    platform = Platform(folder, ["run"], env, ports, token=token)
    migrated = platform.run("db", "upgrade")
    assert migrated.returncode == 0, migrated.stderr
    yield platform.start()
    assert platform.stop() == 0
