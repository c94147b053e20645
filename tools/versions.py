"""Run the tests with the oldest and the newest frameworks that ``pyproject.toml`` allows.

Usage: ``python tools/versions.py [--only oldest|newest] [PYTEST-ARGUMENT…]``;
``make test-versions`` is this. Each combination has a separate environment in ``.versions/``,
in which all else has the version of ``constraints.txt`` where that fits. Prints one table.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.environment import environment_of_uv  # noqa: E402 - found by the line above
from tools.venvs import Venv  # noqa: E402 - likewise

FOLDER = ROOT / ".versions"
RESOLUTIONS = {"oldest": "lowest", "newest": "highest"}
OUTCOMES = ("passed", "failed", "skipped")
_SELECTIONS = ("-k", "-m", "--deselect", "--ignore")
"""How the arguments of pytest begin that leave out tests."""


@dataclass(frozen=True)
class Area:
    """A framework, the packages that come with it, and the tests that concern it.

    Args:
        packages: Those whose versions are varied; the first gives the area its name.
        tests: Files and folders of tests.
        parameter: Only tests with this word among their parameters, where others are another's.
    """

    packages: tuple[str, ...]
    tests: tuple[str, ...]
    parameter: str = ""

    def has(self, file: str, name: str) -> bool:
        """Tell whether the test *name* of *file* belongs here."""
        return self.parameter in name and any(
            file == path or file.startswith(f"{path}/") for path in self.tests
        )


AREAS = (
    Area(("fastapi", "starlette"), ("tests/contract/http",), "fastapi"),
    Area(("flask", "werkzeug"), ("tests/contract/http",), "flask"),
    Area(
        ("flask", "werkzeug"),
        ("tests/unit/http/flask", "tests/integration/http/test_flask_servers.py"),
    ),
    Area(
        ("fastapi", "starlette"),
        ("tests/unit/http", "tests/integration/http", "tests/integration/outbox/test_http.py"),
    ),
    Area(
        ("celery", "kombu", "amqp", "vine", "billiard"),
        (
            "tests/contract/deadletters",
            "tests/contract/tasks",
            "tests/integration/tasks",
            "tests/unit/tasks",
        ),
    ),
    Area(
        ("sqlalchemy",),
        (
            "tests/integration/database",
            "tests/integration/outbox",
            "tests/unit/cli/test_db.py",
            "tests/unit/resources/sqlalchemy",
        ),
    ),
    Area(
        ("redis", "hiredis"),
        (
            "tests/contract/idempotency",
            "tests/contract/limits",
            "tests/contract/rpc",
            "tests/integration/redis",
            "tests/integration/rpc",
            "tests/unit/rpc",
        ),
    ),
)
VARIED = frozenset(package for area in AREAS for package in area.packages)
SHARED = ("several of them",)
"""The row of tests that concern more than one framework."""
Results = dict[tuple[str, ...], Counter[str]]


def main(words: Sequence[str]) -> int:
    asked, for_pytest = parser().parse_known_args(words)
    table: dict[str, tuple[dict[str, str], Results]] = {}
    codes: dict[str, int] = {}
    for name in [asked.only] if asked.only else RESOLUTIONS:
        venv = Venv(FOLDER / name)
        pins = resolve(name)
        make(venv, pins)
        print(f"{name}: running the tests", flush=True)
        codes[name], results = run(venv, for_pytest)
        table[name] = versions(pins), results
    lines, is_good = report(table, is_whole=not selects(for_pytest))
    print("\n".join(lines))
    for name, code in codes.items():
        if code:
            print(f"{name}: pytest ended with exit code {code}")
    return 0 if is_good and not any(codes.values()) else 1


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make test-versions", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--only", choices=RESOLUTIONS, help="one of the two combinations")
    return parser


def selects(for_pytest: Iterable[str]) -> bool:
    """Tell whether the arguments of pytest leave out tests, so that an area may have none."""
    return any(word.startswith(_SELECTIONS) for word in for_pytest)


def resolve(name: str) -> list[str]:
    """Return the pins of the combination *name*."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pins.txt"
        # uv keeps what stands in the file that it writes, wherever that fits.
        file.write_text(unvaried((ROOT / "constraints.txt").read_text()))
        command = [
            *(sys.executable, "-m", "uv", "--quiet", "pip", "compile", "pyproject.toml"),
            *("--all-extras", "--group", "dev", "--resolution", RESOLUTIONS[name]),
            *("--no-header", "--no-annotate", "--output-file", str(file)),
        ]
        printed = subprocess.run(
            command, cwd=ROOT, env=environment_of_uv(), stdout=subprocess.DEVNULL, check=False
        )
        if printed.returncode:
            sys.exit(f"no versions could be chosen for {name}: see uv's message above")
        return file.read_text().splitlines()


def unvaried(constraints: str) -> str:
    """Return the lines of *constraints* that pin none of the packages that are varied."""
    lines = constraints.splitlines(keepends=True)
    return "".join(line for line in lines if line.partition("==")[0] not in VARIED)


def versions(pins: Iterable[str]) -> dict[str, str]:
    """Return the versions of the packages that are varied."""
    pairs = (pin.partition(" ")[0].partition("==") for pin in pins)
    return {name: version for name, _, version in pairs if name in VARIED}


def make(venv: Venv, pins: list[str]) -> None:
    """Install *pins* into *venv*, unless it has them."""
    decides = (sys.version, str(ROOT), *pins, (ROOT / "pyproject.toml").read_text())
    fingerprint = hashlib.sha256("\n".join(decides).encode()).hexdigest()
    # A file of this process alone: another one may install other pins meanwhile.
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text("".join(f"{pin}\n" for pin in pins))
        venv.make(("--requirement", str(requirements), "--editable", "."), fingerprint)


def run(venv: Venv, for_pytest: Sequence[str]) -> tuple[int, Results]:
    """Run the tests of every area in *venv*; return pytest's exit code and the outcomes."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command = [
            *(str(venv.python), "-m", "pytest", "--quiet", "-p", "no:cacheprovider"),
            *("--dist=loadfile", f"--junit-xml={results}", "--override-ini=junit_family=xunit1"),
            *sorted({path for area in AREAS for path in area.tests}),
            *for_pytest,
        ]
        # The programs of this environment, not those of `.venv`.
        path = os.pathsep.join([str(venv.python.parent), os.environ.get("PATH", os.defpath)])
        ended = subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}, check=False)
        return ended.returncode, counted(results.read_text()) if results.exists() else {}


def counted(junit: str) -> Results:
    """Return how many tests of each area passed, failed and were skipped."""
    results: Results = {}
    # Written by the run a moment ago.
    for case in ElementTree.fromstring(junit).iter("testcase"):  # noqa: S314
        area = area_of(case.get("file", ""), case.get("name", ""))
        counts = results.setdefault(area, Counter())
        children = {child.tag for child in case}
        if children & {"failure", "error"}:
            counts["failed"] += 1
        else:
            counts["skipped" if "skipped" in children else "passed"] += 1
    return results


def area_of(file: str, name: str) -> tuple[str, ...]:
    """Return the packages that a test is counted for; the first area that has it decides."""
    return next((area.packages for area in AREAS if area.has(file, name)), SHARED)


def report(
    table: dict[str, tuple[dict[str, str], Results]], *, is_whole: bool = True
) -> tuple[list[str], bool]:
    """Return the table, and whether no test failed and, in a whole run, some passed everywhere."""
    rows: list[tuple[str, ...]] = [("", "versions", *OUTCOMES)]
    is_good = True
    for name, (installed, results) in table.items():
        frameworks = dict.fromkeys(area.packages for area in AREAS)
        for area in (*frameworks, SHARED):
            counts = results.get(area, Counter())
            is_empty = is_whole and area in frameworks and not counts["passed"]
            is_good = is_good and not is_empty and not counts["failed"]
            said = ", ".join(f"{each} {installed.get(each, '')}".strip() for each in area)
            rows.append((name, said, *(str(counts[outcome]) for outcome in OUTCOMES)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines, is_good


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
