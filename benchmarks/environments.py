"""Where does a lane run? Ours as in production, its peers at their newest versions.

Neither is ``.venv``: that one has tools in it that take part in every start of Python.
An environment counts as complete from the moment its stamp is written, which is last of all.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools.venvs import Venv

__all__ = ["OURS", "PEERS", "ROOT", "WORKSHOP", "Environment"]

ROOT = Path(__file__).resolve().parent.parent
WORKSHOP = ROOT / ".bench"
"""Environments and results; not in the repository."""

_WEEK_SECONDS = 7 * 86_400


@dataclass(frozen=True)
class Environment:
    """A virtual environment under ``.bench/``.

    Args:
        name: Its folder.
        requirements: What is installed, as arguments of ``uv pip install``.
        decides: What else decides about it: it is made again when that changes.
        is_newest: Take the newest versions again once a week.
    """

    name: str
    requirements: tuple[str, ...]
    decides: str
    is_newest: bool = True

    @property
    def python(self) -> Path:
        return self._venv.python

    def prepare(self, *, upgrade: bool = False) -> None:
        """Make it, unless it is there and as it should be.

        Args:
            upgrade: Make it again, unless another process has done so since this call: it may
                measure there already.
        """
        newer_than = time.time() if upgrade else 0.0
        self._venv.make(
            self.requirements,
            self._fingerprint(),
            unless=lambda: self._is_ready(newer_than),
        )

    def versions(self, packages: tuple[str, ...]) -> dict[str, str]:
        """Return the versions of *packages* that are installed here."""
        installed = _installed(self.python)
        return {package: installed.get(_normal(package), "?") for package in packages}

    @property
    def _venv(self) -> Venv:
        return Venv(WORKSHOP / self.name)

    def _is_ready(self, newer_than: float) -> bool:
        try:
            if self._venv.stamp.read_text() != self._fingerprint():
                return False
            made_at = self._venv.stamp.stat().st_mtime
        except OSError:
            return False
        if self.is_newest:
            newer_than = max(newer_than, time.time() - _WEEK_SECONDS)
        return made_at > newer_than

    def _fingerprint(self) -> str:
        # With its place: what is installed from this tree points to it.
        decides = f"{sys.version} {self._venv.folder} {self.requirements} {self.decides}"
        return hashlib.sha256(decides.encode()).hexdigest()


@cache
def _installed(python: Path) -> dict[str, str]:
    ask = (
        "from importlib.metadata import distributions\n"
        "for one in distributions(): print(one.metadata['Name'], one.version)"
    )
    lines = subprocess.check_output([python, "-c", ask], text=True).splitlines()
    return {_normal(name): version for name, version in (line.split() for line in lines)}


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")


def peers(name: str = "requirements") -> Environment:
    """Return an environment of peers, from ``peers/NAME.in``."""
    file = ROOT / "benchmarks" / "peers" / f"{name}.in"
    folder = "peers" if name == "requirements" else f"peers-{name}"
    return Environment(folder, ("--requirement", str(file)), file.read_text())


def _of_this_tree() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = (project["dependencies"], project["optional-dependencies"])
    return f"{needs} {(ROOT / 'constraints.txt').read_text()}"


OURS = Environment(
    "ours",
    ("--constraint", "constraints.txt", "--editable", ".[all]"),
    _of_this_tree(),
    is_newest=False,
)
PEERS = peers()
