"""Make environments beside ``.venv`` with uv, each complete or made again.

One process at a time makes one; the stamp of a complete one is written last.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tools.environment import ROOT, clear, environment_of_uv, locked, remove, write

STAMP = ".complete"


@dataclass(frozen=True)
class Venv:
    """An environment in *folder*."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """The file with the fingerprint of what is installed, once all of it is."""
        return self.folder / STAMP

    def has(self, fingerprint: str) -> bool:
        """Tell whether what *fingerprint* stands for is installed, and all of it."""
        return self.stamp.is_file() and self.stamp.read_text() == fingerprint

    def make(
        self,
        requirements: Sequence[str],
        fingerprint: str,
        *,
        unless: Callable[[], bool] | None = None,
    ) -> None:
        """Install *requirements*, arguments of ``uv pip install``, into an empty environment.

        Args:
            requirements: What is installed.
            fingerprint: What is written into the stamp.
            unless: Asked before, and again when another process has made it meanwhile; by default,
                whether the stamp has *fingerprint*.
        """
        unless = unless or partial(self.has, fingerprint)
        if unless():
            return
        with locked(self.folder) as lock:
            if unless():
                return
            print(f"installing into {self.folder}", flush=True)
            remove(self.stamp)
            clear(self.folder)
            # An existing folder, for the lock is in it.
            self._uv(lock, "venv", "--allow-existing", "--python", sys.executable, self.folder)
            options = ("--compile-bytecode", "--python", self.python)
            self._uv(lock, "pip", "install", *options, *requirements)
            write(self.stamp, fingerprint)

    def _uv(self, lock: int, *words: str | Path) -> None:
        command = [sys.executable, "-m", "uv", "--quiet", *map(str, words)]
        ended = subprocess.run(
            command, cwd=ROOT, env=environment_of_uv(), pass_fds=[lock], check=False
        )
        if ended.returncode:
            sys.exit(f"{self.folder} could not be made: the reason that uv gave stands above")
