"""Stand-ins for `venv`, `pip` and `uv` that need no network, wait and fail when a test says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mainstay.testing.wait import eventually

__all__ = ["Installer", "kill", "output"]

_VENV = """
import sys
from pathlib import Path

def make(folder):
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(REAL_PYTHON)
    (folder / "bin" / "activate").write_text(str(folder))
"""
_UV = """
import json, os, sys, time
from pathlib import Path

def install(words):
    controls = Path(os.environ["CONTROLS"])
    if words[0] == "venv":
        import venv
        return venv.make(Path(words[-1]))
    environment = Path(words[words.index("--python") + 1]).parent.parent
    (environment / "half").write_text(str(os.getpid()))
    with (controls / "started").open("a") as log:
        log.write(json.dumps(words) + "\\n")
    while (controls / "wait").exists():
        time.sleep(0.02)
    if (controls / "fail").exists():
        sys.exit("no space left on device")
    (environment / "whole").write_text(str(os.getpid()))
"""
_PIP = """
import sys
if sys.argv[1] == "install" and sys.argv[-1] != "uv":
    sys.exit(1)
"""


class Installer:
    """Runs programs whose `python -m venv`, `pip` and `uv` are stand-ins.

    An installation writes the file `half` into the environment first, and `whole` last.
    """

    def __init__(self, folder: Path) -> None:
        self._modules, self._controls = folder / "modules", folder / "controls"
        real = Path(sys.executable).resolve()
        self._write(
            "venv", _VENV.replace("REAL_PYTHON", repr(str(real))), "make(Path(sys.argv[1]))"
        )
        self._write("uv", _UV, "install([word for word in sys.argv[1:] if word != '--quiet'])")
        self._write("pip", "", _PIP)
        self._controls.mkdir()

    def _write(self, module: str, text: str, main: str) -> None:
        folder = self._modules / module
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(text)
        (folder / "__main__.py").write_text(f"from {module} import *\n{main}\n")

    @contextmanager
    def that(self, does: str) -> Iterator[None]:
        """Have each installation *wait* in its midst, or *fail* there."""
        control = self._controls / does
        control.touch()
        try:
            yield
        finally:
            control.unlink(missing_ok=True)

    def started(self) -> list[list[str]]:
        """Return the arguments of each installation that has started."""
        log = self._controls / "started"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def start(self, program: Sequence[str | Path], *paths: Path) -> subprocess.Popen[str]:
        """Start Python with the arguments *program*, in a new process group."""
        modules = os.pathsep.join(map(str, (self._modules, *paths)))
        return subprocess.Popen(
            [sys.executable, *program],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": modules,
                "CONTROLS": str(self._controls),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def start_and_wait(self, program: Sequence[str | Path], *paths: Path) -> subprocess.Popen[str]:
        """Start it, and return when its installation is in its midst."""
        before = len(self.started())
        process = self.start(program, *paths)
        assert eventually(lambda: len(self.started()) > before, timeout_seconds=60)
        return process


def output(process: subprocess.Popen[str]) -> str:
    """Return what *process* has said when it ends."""
    said, _ = process.communicate(timeout=60)
    return said


def kill(process: subprocess.Popen[str], *, with_its_children: bool) -> None:
    if with_its_children:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait(60)
    if process.stdout is not None:
        process.stdout.close()
