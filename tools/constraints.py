"""Write ``constraints.txt``: the exact version of everything that is installed, on any platform.

Usage: ``python tools/constraints.py`` moves every pin to the newest version that pyproject.toml
allows; ``--check`` only tells whether the pins still are what pyproject.toml asks for.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
# What installs the rest is pinned too.
INSTALLER = "uv"


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        wrong = disagreements(CONSTRAINTS.read_text(), (ROOT / "pyproject.toml").read_text())
        for line in wrong:
            print(f"constraints.txt: {line}; run: make constraints")
        return 1 if wrong else 0
    if arguments:
        print("usage: python tools/constraints.py [--check]")
        return 2
    refresh()
    return 0


def refresh() -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".in") as installer:
        installer.write(INSTALLER)
        installer.flush()
        compile_pins = [
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--upgrade"),
            *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
            *("--all-extras", "--group", "dev", "--output-file", str(CONSTRAINTS)),
            *("pyproject.toml", installer.name),
        ]
        subprocess.run(compile_pins, cwd=ROOT, check=True)


def disagreements(constraints: str, pyproject: str) -> list[str]:
    """Tell where *constraints* lacks a pin, or has one that *pyproject* does not allow."""
    wrong = []
    pins: dict[str, list[Requirement]] = {}
    for line in constraints.splitlines():
        pin = Requirement(line)
        pins.setdefault(canonicalize_name(pin.name), []).append(pin)
        if pin.url or [part.operator for part in pin.specifier] != ["=="]:
            wrong.append(f"{line!r} is not a name with an exact version")
    for requirement in requirements(pyproject):
        name = canonicalize_name(requirement.name)
        if name not in pins:
            wrong.append(f"{name} is not pinned")
        for pin in pins.get(name, []):
            version = next(iter(pin.specifier)).version if pin.specifier else ""
            if version and not requirement.specifier.contains(version, prereleases=True):
                wrong.append(f"{name} {version} is not what pyproject.toml allows: {requirement}")
    return wrong


def requirements(pyproject: str) -> list[Requirement]:
    declared = tomllib.loads(pyproject)
    project = declared["project"]
    lists = [
        project["dependencies"],
        *project["optional-dependencies"].values(),
        *declared["dependency-groups"].values(),
    ]
    parsed = [Requirement(text) for texts in lists for text in texts]
    return [requirement for requirement in parsed if requirement.name != project["name"]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
