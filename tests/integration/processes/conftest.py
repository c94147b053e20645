"""Projects that are small, real, and run by the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mainstay.processes.ports import steady_port
from mainstay.testing.wait import eventually
from tests.waiting import PATIENCE_SECONDS

SERVER = """
import http.server, os, signal, threading
class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write((os.environ.get(self.path[1:], "") or WORD).encode())
    def log_message(self, *ignored): pass
WORD = "first"
def serve():
    port = int(os.environ["APP_METRICS_PORT"])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Answers)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print("up", os.getpid(), flush=True)
    server.serve_forever(poll_interval=0.01)
    print("drained", flush=True)
    return 0
"""

SERVICE = """
[service.{name}]
path = "services/{name}"
[service.{name}.process.api]
kind = "loop"
target = "{name}_work:serve"
metrics_port = {port}
"""

# What the tests themselves are told must not reach the projects that they run.
_NAMES_OF_SERVERS = ("DATABASE", "POSTGRES", "REDIS", "RABBITMQ", "CELERY", "APP_", "MAINSTAY")


class Project:
    """A project of two services, and its commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {name: steady_port() for name in ("data", "books")}
        self.started: list[subprocess.Popen[bytes]] = []
        text = ""
        for name, port in self.ports.items():
            service = folder / "services" / name
            service.mkdir(parents=True)
            (service / f"{name}_work.py").write_text(SERVER)
            text += SERVICE.format(name=name, port=port)
        self.manifest = folder / "mainstay.toml"
        self.manifest.write_text(text)

    @property
    def state(self) -> Path:
        return self.folder / ".mainstay"

    def environ(self, **given: str) -> dict[str, str]:
        kept = {n: v for n, v in os.environ.items() if not n.startswith(_NAMES_OF_SERVERS)}
        return {**kept, **given}

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[bytes]:
        """Begin a command; what it says goes to the file ``said``."""
        with (self.folder / "said").open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "mainstay", *arguments],
                cwd=self.folder / "services" / "data",
                env=self.environ(**environ),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        self.started.append(process)
        return process

    def do(self, *arguments: str, **environ: str) -> tuple[int, str]:
        """Run a command to its end; return its exit code and what it said."""
        code = self.start(*arguments, **environ).wait(90)
        return code, self.said

    @property
    def said(self) -> str:
        return (self.folder / "said").read_text(errors="replace")

    def says(self, text: str, *, times: int = 1) -> None:
        eventually(lambda: self.said.count(text) >= times)

    def ask(self, name: str, path: str = "") -> str:
        url = f"http://127.0.0.1:{self.ports[name]}/{path}"
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
            return str(answer.read().decode())

    def processes(self) -> set[int]:
        """Return everything that runs and has to do with this project, wherever it came from."""
        rows = subprocess.run(
            ["ps", "-eo", "pid=,stat=,args="], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        found = set()
        for row in rows:
            pid, state, arguments = row.split(maxsplit=2)
            ours = str(self.folder) in arguments or self._is_home_of(int(pid))
            if ours and not state.startswith("Z") and int(pid) != os.getpid():
                found.add(int(pid))
        return found

    def _is_home_of(self, pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/cwd").readlink().is_relative_to(self.folder)
        except OSError:
            return False


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.terminate()
            process.wait(90)
    for pid in made.processes():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def ready(project: Project) -> Callable[..., subprocess.Popen[bytes]]:
    """Begin ``mainstay dev`` and wait until it shows its table.

    Without reload, unless it is asked for: somebody may be at work on the library meanwhile.
    """

    def start(*arguments: str, reload: bool = False, **environ: str) -> subprocess.Popen[bytes]:
        quiet = () if reload else ("--no-reload",)
        process = project.start("dev", *quiet, *arguments, **environ)
        eventually(
            lambda: "Ready after" in project.said or process.poll() is not None,
            timeout_seconds=90,
        )
        assert process.poll() is None, project.said
        return process

    return start
