"""Run the benchmarks: ``python -m benchmarks [ROW…]``; ``make bench`` is this."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import time
from collections.abc import Sequence

from benchmarks import report, rows
from benchmarks.environments import WORKSHOP
from benchmarks.measuring import Result, run
from benchmarks.programs import LaneFailed
from benchmarks.row import Row
from mainstay.errors import MainstayError

RESULTS = WORKSHOP / "results.json"
_QUICK_ROUNDS, _QUICK_SHARE = 3, 0.2


def main(words: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(words)
    found = [row for row in every_row() if row.name.startswith(tuple(asked.rows) or "")]
    if asked.list:
        for row in found:
            print(f"{row.name:<24} {row.title}")
        return 0
    if not found:
        print(f"no row begins with {' or '.join(asked.rows)}: see --list", file=sys.stderr)
        return 2
    if sys.platform != "linux":
        print("the CPU of other processes is read as Linux shows it: run it there", file=sys.stderr)
        return 2
    for environment in dict.fromkeys(one for row in found for one in row.environments):
        environment.prepare(upgrade=asked.upgrade)
    rounds = asked.rounds or (_QUICK_ROUNDS if asked.quick else 7)
    results: list[Result] = []
    failures: list[tuple[str, str]] = []
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {line}", flush=True)

    for row in found:
        say(f"{row.name}: {row.title}")
        try:
            result = run(row, rounds=rounds, share=_QUICK_SHARE if asked.quick else 1.0, say=say)
        except (LaneFailed, MainstayError) as error:
            failures.append((row.name, str(error)))
            say(f"{row.name}: {error}")
        else:
            results.append(result)
            report.write([result], RESULTS, quick=asked.quick)
    report.show(results, failures)
    print(f"written to {RESULTS.relative_to(WORKSHOP.parent)}")
    missed = any(
        goal.verdict(result.of(goal).value) == "missed"
        for result in results
        for goal in result.row.goals
    )
    return 1 if failures or (asked.gate and missed) else 0


def every_row() -> list[Row]:
    """Return the ``ROW``, or the ``ROWS``, of every module in ``rows/``, by name."""
    names = [found.name for found in pkgutil.iter_modules(rows.__path__, f"{rows.__name__}.")]
    modules = [importlib.import_module(name) for name in names]
    made = [
        row for one in modules for row in (getattr(one, "ROW", None), *getattr(one, "ROWS", ()))
    ]
    return sorted((row for row in made if isinstance(row, Row)), key=lambda row: row.name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows whose names begin with this")
    parser.add_argument("--rounds", type=int, help="how often each lane has its turn (7)")
    parser.add_argument("--quick", action="store_true", help="to try it out: no figures to rely on")
    parser.add_argument("--list", action="store_true", help="only say which rows there are")
    parser.add_argument("--gate", action="store_true", help="end with 1 where a goal is missed")
    parser.add_argument("--upgrade", action="store_true", help="install the newest peers now")
    return parser


if __name__ == "__main__":
    sys.exit(main())
