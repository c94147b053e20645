"""Build the environment of a foreign suite: Mainstay, and what the suite's tests import."""

from __future__ import annotations

import hashlib
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.environment import ROOT, write
from tools.foreign.sources import CONSTRAINTS, FOLDER
from tools.venvs import Venv


def python_with(name: str, requirements: tuple[str, ...]) -> Path:
    """Return the Python of environment *name*, building it when it is absent or out of date.

    It has Mainstay (editable), all extras, *requirements*, and the versions of constraints.txt,
    unless a requirement names another version.
    """
    venv = Venv(FOLDER / f"environment-{name}")
    FOLDER.mkdir(exist_ok=True)
    pins = venv.folder.with_suffix(".txt")
    write(pins, constraints_without(requirements, CONSTRAINTS.read_text()))
    wanted = ("--constraint", str(pins), "--editable", f"{ROOT}[all]", *requirements)
    venv.make(wanted, _fingerprint(requirements))
    return venv.python


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
    decides = f"{sys.version} {ROOT} {needs} {CONSTRAINTS.read_text()}"
    return hashlib.sha256(decides.encode()).hexdigest()
