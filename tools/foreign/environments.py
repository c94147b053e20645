"""Build the environment of a foreign suite: Mainstay, and what the suite's tests import."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.environment import environment_of_uv
from tools.foreign.sources import CONSTRAINTS, FOLDER, ROOT, exclusive

_STAMP = "complete"


def python_with(name: str, requirements: tuple[str, ...]) -> Path:
    """Return the Python of environment *name*, building it when it is absent or out of date.

    It has Mainstay (editable), all extras, *requirements*, and the versions of constraints.txt,
    unless a requirement names another version.
    The stamp is removed before and written after everything else, so an interrupted installation
    is done again.
    """
    folder = FOLDER / f"environment-{name}"
    python = folder / "bin" / "python"
    fingerprint = _fingerprint(requirements)
    with exclusive(folder):
        stamp = folder / _STAMP
        if stamp.is_file() and stamp.read_text() == fingerprint:
            return python
        stamp.unlink(missing_ok=True)
        print(f"Installing the environment of the {name} suite", file=sys.stderr, flush=True)
        uv, environment = [sys.executable, "-m", "uv"], environment_of_uv()
        # Not --clear: it would remove the lock file that other processes wait for.
        venv = [*uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable]
        subprocess.run([*venv, str(folder)], check=True, env=environment)
        install = [*uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)]
        pins = folder / "constraints.txt"
        pins.write_text(constraints_without(requirements, CONSTRAINTS.read_text()))
        wanted = ["--constraint", str(pins), "--editable", f"{ROOT}[all]", *requirements]
        subprocess.run([*install, *wanted], check=True, env=environment, cwd=ROOT)
        stamp.write_text(fingerprint)
    return python


def constraints_without(requirements: tuple[str, ...], constraints: str) -> str:
    """Return *constraints* without the pins of packages for which a requirement has a version."""
    parsed = [Requirement(text) for text in requirements]
    own = {canonicalize_name(one.name) for one in parsed if one.specifier}
    lines = constraints.splitlines()
    kept = [one for one in lines if canonicalize_name(Requirement(one).name) not in own]
    return "".join(f"{line}\n" for line in kept)


def _fingerprint(requirements: tuple[str, ...]) -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = (project["dependencies"], project["optional-dependencies"], requirements)
    decides = f"{sys.version} {needs} {CONSTRAINTS.read_text()}"
    return hashlib.sha256(decides.encode()).hexdigest()
