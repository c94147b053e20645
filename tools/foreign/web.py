"""Run the suite of a web framework twice: bare, and with a plugin that adds Mainstay."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.foreign.results import Report, run_pytest
from tools.foreign.sources import pinned_version, unpacked

_TIMEOUT = "--timeout=60"


def run_pair(
    package: str,
    python: Path,
    plugin: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
) -> tuple[Report, Report]:
    """Return the reports without and with *plugin*.

    Raises:
        SystemExit: The plugin wrapped no application, so the second run would prove nothing.
    """
    version = pinned_version(package)
    folder = unpacked(package, version)
    with tempfile.TemporaryDirectory() as name:
        reports = Path(name)
        print(f"{package} {version}, bare", file=sys.stderr, flush=True)
        bare = run_pytest(python, folder, [*arguments, _TIMEOUT], report=reports / "bare.xml")
        print(f"{package} {version}, with Mainstay", file=sys.stderr, flush=True)
        ours = run_pytest(
            python,
            folder,
            [*arguments, _TIMEOUT, "-p", plugin],
            report=reports / "ours.xml",
            environment=environment,
        )
    if not int(ours.properties.get("applications", 0)):
        sys.exit(f"{plugin} wrapped no application")
    return bare, ours
