"""Run a test suite, read its report, and compare two runs."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from xml.etree import ElementTree

from mainstay.processes.leash import Leash
from tools.environment import ROOT

# Of pytest: 0 all passed, 1 some failed. Others mean that tests were not run.
_FINISHED = (0, 1)
_POLL_SECONDS = 0.2
_UNEXPLAINED = "**unexplained**"


class Outcome(StrEnum):
    PASSED = "passed"
    SKIPPED = "skipped"
    FAILED = "failed"
    ABSENT = "absent"


_ORDER = [Outcome.SKIPPED, Outcome.PASSED, Outcome.FAILED]


@dataclass(frozen=True)
class Result:
    """What one test did.

    Args:
        outcome: The worst one that the report has for it: its set-up and tear-down count.
        message: First line of the error.
    """

    outcome: Outcome
    message: str = ""


Results = Mapping[str, Result]
_NOT_RUN = Result(Outcome.ABSENT)


@dataclass(frozen=True)
class Report:
    """A run of a suite.

    Args:
        results: By test id, as pytest writes it: ``tests/test_basic.py::TestView::test_get[a]``.
        properties: What our plugin said of the run.
        unstable: Failures in one of two attempts of tests that did not fail in the other.
    """

    results: Results
    properties: Mapping[str, str] = field(default_factory=dict)
    unstable: Results = field(default_factory=dict)


def run_pytest(
    python: Path,
    folder: Path,
    arguments: Sequence[str],
    *,
    report: Path,
    environment: Mapping[str, str] | None = None,
    limit_seconds: float = math.inf,
    log: Path | None = None,
    stop: threading.Event | None = None,
) -> Report:
    """Run pytest in *folder* and return what it reports.

    Args:
        python: Has pytest and all that the tests import.
        folder: Where the suite was unpacked; its own configuration holds.
        arguments: Of pytest. Plugins of this repository are found.
        report: Where the JUnit report is written.
        environment: Variables besides those of this process.
        limit_seconds: pytest and all processes of its tests are killed after this long.
        log: Where the output goes; by default, to this process' own.
        stop: When it is set, they are killed, too.

    Raises:
        RuntimeError: pytest did not run the tests to their end.
    """
    report.unlink(missing_ok=True)
    command = [
        str(python),
        "-m",
        "pytest",
        *arguments,
        "--quiet",
        "--tb=short",
        "-p",
        "no:cacheprovider",
    ]
    command += ["-o", "junit_family=xunit1", f"--junitxml={report}"]
    command += ["--continue-on-collection-errors"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    exit_code = _run(command, folder, variables, limit_seconds, log, stop or threading.Event())
    if exit_code not in _FINISHED or not report.is_file():
        why = "was killed" if exit_code is None else f"ended with exit code {exit_code}"
        raise RuntimeError(f"pytest {why}: {' '.join(command)}")
    return parse(report.read_text())


def _run(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    limit_seconds: float,
    log: Path | None,
    stop: threading.Event,
) -> int | None:
    """Return the exit code, or ``None`` when it was killed at its limit or because of *stop*."""
    with ExitStack() as stack:
        output = stack.enter_context(log.open("wb")) if log else None
        # In a new session, so that all that its tests started can be killed with it.
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        # Kills it when this process is killed.
        leash = stack.enter_context(closing(Leash()))
        leash.hold(process.pid)
        deadline = time.monotonic() + limit_seconds
        try:
            while not stop.is_set() and time.monotonic() < deadline:
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(_POLL_SECONDS)
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            leash.release(process.pid)


def parse(junit: str) -> Report:
    """Read a JUnit report of the family xunit1, which names the file of each test."""
    results: dict[str, Result] = {}
    properties: dict[str, str] = {}
    for suite in ElementTree.fromstring(junit).iter("testsuite"):  # noqa: S314 - pytest wrote it
        for one in suite.findall("properties/property"):
            properties[one.get("name", "")] = one.get("value", "")
        for case in suite.findall("testcase"):
            name, result = _test_id(case), _result(case)
            known = results.get(name)
            # A test that passed and whose tear-down failed is there twice.
            if known is None or _ORDER.index(known.outcome) < _ORDER.index(result.outcome):
                results[name] = result
    return Report(results, properties)


def _test_id(case: ElementTree.Element) -> str:
    file, classname, name = case.get("file"), case.get("classname", ""), case.get("name", "")
    if file is None:  # an error of the collection
        return classname or name
    classes = classname.removeprefix(file.removesuffix(".py").replace("/", ".")).strip(".")
    return "::".join([file, *(classes.split(".") if classes else []), name])


def _result(case: ElementTree.Element) -> Result:
    for tag in ("failure", "error"):
        found = case.find(tag)
        if found is not None:
            message = found.get("message", "").strip().splitlines()
            return Result(Outcome.FAILED, message[0] if message else "")
    skipped = case.find("skipped") is not None
    return Result(Outcome.SKIPPED if skipped else Outcome.PASSED)


@dataclass(frozen=True)
class Difference:
    """A test that does not do the same in both runs."""

    test: str
    bare: Result
    ours: Result


@dataclass(frozen=True)
class Comparison:
    """Two runs of the same tests.

    Args:
        differences: Tests with another outcome, in the order of the report.
        agreed: How many tests have each outcome in both runs.
    """

    differences: list[Difference]
    agreed: Mapping[Outcome, int]


def compare(bare: Results, ours: Results) -> Comparison:
    """Compare the run without Mainstay with the run with it."""
    differences = []
    agreed: Counter[Outcome] = Counter()
    for test in {**bare, **ours}:
        pair = Difference(test, bare.get(test, _NOT_RUN), ours.get(test, _NOT_RUN))
        if pair.bare.outcome == pair.ours.outcome:
            agreed[pair.bare.outcome] += 1
        else:
            differences.append(pair)
    return Comparison(differences, agreed)


@dataclass(frozen=True)
class Reason:
    """Why some tests differ.

    Args:
        text: The reason, or the fault.
        tests: Their ids, as patterns of `fnmatch` in which brackets stand for themselves.
        runs: The runs that it holds for, as patterns; all by default.
        depends_on_speed: The tests differ on a slow machine alone, so this may explain nothing.
    """

    text: str
    tests: tuple[str, ...]
    runs: tuple[str, ...] = ("*",)
    depends_on_speed: bool = False

    def explains(self, test: str, run: str) -> bool:
        return _matches(run, self.runs) and _matches(test, self.tests)


def _matches(text: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(text, pattern.replace("[", "[[]")) for pattern in patterns)


def reasons_of(toml: str) -> list[Reason]:
    """Read a file of reasons: tables ``[[difference]]`` with `reason`, `tests` and maybe `runs` and
    `depends_on_speed`.
    """
    return [
        Reason(
            one["reason"],
            tuple(one["tests"]),
            tuple(one.get("runs", ("*",))),
            one.get("depends_on_speed", False),
        )
        for one in tomllib.loads(toml).get("difference", [])
    ]


def explained(
    comparison: Comparison, reasons: Sequence[Reason], run: str
) -> tuple[list[tuple[Difference, str]], list[str]]:
    """Return each difference with its reason (empty without one), and the patterns that explain
    no difference any more, except those that depend on the speed of the machine.
    """
    rows = [
        (one, next((_said(each) for each in reasons if each.explains(one.test, run)), ""))
        for one in comparison.differences
    ]
    tests = [one.test for one in comparison.differences]
    stale = [
        pattern
        for reason in reasons
        if _matches(run, reason.runs) and not reason.depends_on_speed
        for pattern in reason.tests
        if not any(_matches(test, (pattern,)) for test in tests)
    ]
    return rows, stale


def _said(reason: Reason) -> str:
    return f"{reason.text} (depends on speed)" if reason.depends_on_speed else reason.text


def table(comparison: Comparison, reasons: Sequence[Reason], run: str) -> str:
    """Return counts and differences as Markdown."""
    agreed = comparison.agreed
    rows, stale = explained(comparison, reasons, run)
    unexplained = sum(not text for _, text in rows)
    counts = (
        f"Both pass: {agreed.get(Outcome.PASSED, 0)}; both fail: {agreed.get(Outcome.FAILED, 0)}; "
        f"both skip: {agreed.get(Outcome.SKIPPED, 0)}; "
        f"different: {len(rows)}, of which unexplained: {unexplained}."
    )
    lines = [f"### {run}", "", counts]
    if rows:
        lines += ["", "| test | bare | with Mainstay | message | reason |", "|---|---|---|---|---|"]
    for one, text in rows:
        message = one.ours.message or one.bare.message
        cells = (f"`{one.test}`", one.bare.outcome, one.ours.outcome, message[:160])
        lines.append(f"| {' | '.join(map(_cell, (*cells, text or _UNEXPLAINED)))} |")
    lines += [f"\nExplains nothing: `{pattern}`" for pattern in stale]
    return "\n".join(lines) + "\n"


def unstable_table(bare: Report, ours: Report) -> str:
    """Return the tests that failed in one of two attempts, as Markdown; empty without any."""
    failures = {
        test: {
            name: report.unstable[test].message
            for name, report in (("bare", bare), ("with Mainstay", ours))
            if test in report.unstable
        }
        for test in {**bare.unstable, **ours.unstable}
    }
    if not failures:
        return ""
    lines = ["Failed in one of two attempts:", "", "| test | run | message |", "|---|---|---|"]
    for test, messages in failures.items():
        message = next(filter(None, reversed(messages.values())), "")
        cells = (f"`{test}`", ", ".join(messages), message[:160])
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
