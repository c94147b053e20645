"""Run a foreign test suite bare and with Mainstay, and print the differences.

Usage: ``python -m tools.foreign celery|flask|starlette``.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tools.foreign.results import Report, compare, explained, reasons_of, table, unstable_table

SUITES = ("celery", "flask", "starlette")

_DESCRIPTION = """\
Run the test suite of Celery, Flask or Starlette, of the version that constraints.txt pins, twice:
bare, and with Mainstay in every application that the tests make. Print each test whose outcome
differs, with its reason.

Sources and environments are kept in .foreign/, and are downloaded by the first run.
"""
_EPILOG = """\
Exit status: 0 when each difference has a reason in tools/foreign/reasons/SUITE.toml, 1 when one
lacks it or a reason explains no difference any more (with --only, the second is not checked).
"""
REASONS = Path(__file__).parent / "reasons"


class Suite(Protocol):
    """What a module of this package, such as `tools.foreign.flask`, has for its suite."""

    DESCRIPTION: str
    """What of Mainstay is put where: a sentence of the help."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what this suite takes besides the common options."""

    def run(
        self, options: argparse.Namespace, only: Sequence[str]
    ) -> dict[str, tuple[Report, Report]]:
        """Run the suite.

        Args:
            options: What `add_arguments` asked for.
            only: Arguments that choose tests; none is the whole suite.

        Returns:
            For each pair of runs, by name, the bare one and the one with Mainstay.
        """


def main(arguments: Sequence[str]) -> int:
    suites: dict[str, Suite] = {}
    parser = argparse.ArgumentParser(
        prog="python -m tools.foreign",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="suite", required=True, metavar="|".join(SUITES))
    for name in SUITES:
        suite: Suite = importlib.import_module(f"tools.foreign.{name}")
        suites[name] = suite
        command = commands.add_parser(
            name, help=suite.DESCRIPTION, description=suite.DESCRIPTION, epilog=_EPILOG
        )
        command.add_argument(
            "--only",
            metavar="TEST",
            action="append",
            default=[],
            help="a file or test id of the suite instead of all of it; may be repeated",
        )
        command.add_argument(
            "--output", metavar="FILE", type=Path, help="write the tables there, too"
        )
        suite.add_arguments(command)
    options = parser.parse_args(arguments)
    pairs = suites[options.suite].run(options, options.only)
    is_whole = not options.only and not getattr(options, "expression", None)
    return report(options.suite, pairs, is_whole=is_whole, output=options.output)


def report(
    suite: str, pairs: dict[str, tuple[Report, Report]], *, is_whole: bool, output: Path | None
) -> int:
    """Print a table for each pair of runs; return the exit status."""
    file = REASONS / f"{suite}.toml"
    reasons = reasons_of(file.read_text()) if file.is_file() else []
    tables, is_good = [], True
    for name, (bare, ours) in pairs.items():
        comparison = compare(bare.results, ours.results)
        rows, stale = explained(comparison, reasons, name)
        is_good &= all(text for _, text in rows) and not (is_whole and stale)
        tables.append(table(comparison, reasons, name))
        if unstable := unstable_table(bare, ours):
            tables.append(unstable)
    text = "\n".join(tables)
    print(text)
    if output is not None:
        output.write_text(text)
    return 0 if is_good else 1


if __name__ == "__main__":
    # As Ctrl-C does: what was started is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
