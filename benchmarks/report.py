"""What came out: one table for people, one JSON file for programs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import Result
from benchmarks.row import Goal

__all__ = ["as_table", "show", "write"]

# Where nobody looks (a file, a pipe) there is no width to fit in.
_WIDTH_OF_FILES = 180
_COLOURS = {"ahead": "green", "at": "yellow", "missed": "red"}


def show(results: Iterable[Result], failures: Iterable[tuple[str, str]]) -> None:
    """Print the table, and below it what could not be measured."""
    console = Console(width=None if os.isatty(1) else _WIDTH_OF_FILES)
    console.print(as_table(results))
    for name, reason in failures:
        console.print(f"[red]{name}[/red] was not measured: {reason}", highlight=False)


def as_table(results: Iterable[Result]) -> Table:
    """Return a line for each goal of each row."""
    table = Table(box=box.SIMPLE, pad_edge=False, show_lines=True)
    for column in ("row", "goal", "measured", "spread", "peers", "versions", "verdict"):
        table.add_column(column, overflow="fold")
    for result in results:
        for goal in result.row.goals:
            table.add_row(*_line(result, goal))
    return table


def _line(result: Result, goal: Goal) -> Sequence[str]:
    measured = result.of(goal)
    verdict = goal.verdict(measured.value)
    others = [name for name in result.samples if name != goal.lane]
    versions = {
        package: version for lane in result.versions.values() for package, version in lane.items()
    }
    return (
        f"[bold]{result.row.name}[/bold]\n{result.row.title}",
        goal.text(result.row.unit),
        _figure(result, goal, goal.lane),
        _spread(goal, measured.value, measured.spread),
        "\n".join(f"{name} {_figure(result, goal, name)}" for name in others),
        "\n".join(f"{package} {version}" for package, version in versions.items()),
        f"[{_COLOURS[verdict]}]{verdict}[/]",
    )


def _figure(result: Result, goal: Goal, lane: str) -> str:
    unit = goal.figure.unit.format(unit=result.row.unit)
    plain = f"{result.plain(goal, lane).value:,.4g} {unit}"
    if goal.against is None or lane == goal.against:
        return plain
    compared = result.of(goal, lane).value
    return f"{compared:.3g} × ({plain})" if goal.times else f"{compared:+.3g} ({plain})"


def _spread(goal: Goal, value: float, spread: float) -> str:
    if goal.over or not value:
        return f"± {spread:.2g}"
    return f"± {spread / abs(value):.1%}"


def write(results: Iterable[Result], path: Path, *, quick: bool) -> None:
    """Put *results* into the file *path*, beside those of other rows that are there."""
    try:
        rows: dict[str, Any] = orjson.loads(path.read_bytes())["rows"]
    except (OSError, ValueError, KeyError):
        rows = {}
    for result in results:
        rows[result.row.name] = _as_json(result, quick=quick)
    told = {
        "machine": {
            "system": platform.platform(),
            "processors": os.cpu_count(),
            "python": platform.python_version(),
        },
        "rows": dict(sorted(rows.items())),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _as_json(result: Result, *, quick: bool) -> dict[str, Any]:
    row = result.row
    goals = []
    for goal in row.goals:
        measured = result.of(goal)
        goals.append(
            {
                "goal": goal.text(row.unit),
                "limit": goal.limit,
                "lane": goal.lane,
                "against": goal.against,
                "measured": measured.value,
                "spread": measured.spread,
                "rounds": measured.rounds,
                "others": {
                    name: result.of(goal, name).value
                    for name in result.samples
                    if name != goal.lane
                },
                "verdict": goal.verdict(measured.value),
            }
        )
    return {
        "title": row.title,
        "unit": row.unit,
        "measured_at": result.measured_at.isoformat(timespec="seconds"),
        "quick": quick,
        "goals": goals,
        "versions": result.versions,
        "samples": {name: [asdict(one) for one in taken] for name, taken in result.samples.items()},
    }
