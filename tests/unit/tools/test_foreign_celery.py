"""What two attempts at Celery's own tests give, and how a run ends."""

from __future__ import annotations

import os
import select
import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tools.foreign import __main__ as program_of_suites
from tools.foreign import celery
from tools.foreign.celery import best_of, to_repeat
from tools.foreign.results import Outcome, Report, Result, Results, run_pytest

PASSED = Result(Outcome.PASSED)
SKIPPED = Result(Outcome.SKIPPED)
FAILED = Result(Outcome.FAILED, "AssertionError")
FAILED_AGAIN = Result(Outcome.FAILED, "TimeoutError")


def test_tests_that_failed_in_either_run_are_repeated_in_their_order() -> None:
    bare = {"a": PASSED, "b": FAILED, "c": PASSED, "d": FAILED}
    ours = {"a": PASSED, "b": FAILED, "c": FAILED, "d": PASSED}

    assert to_repeat(bare, ours) == ["b", "c", "d"]


def test_a_test_that_one_run_lacks_is_repeated_when_it_failed_in_the_other() -> None:
    assert to_repeat({"a": PASSED}, {"b": FAILED}) == ["b"]
    assert to_repeat({"a": FAILED}, {}) == ["a"]


def test_tests_that_passed_or_were_skipped_are_not_repeated() -> None:
    assert to_repeat({"a": PASSED, "b": SKIPPED}, {"a": PASSED, "b": PASSED}) == []


def test_a_test_that_failed_once_and_passed_once_has_passed() -> None:
    assert best_of({"a": FAILED, "b": PASSED}, {"a": PASSED, "b": FAILED}) == {
        "a": PASSED,
        "b": PASSED,
    }


def test_of_two_failures_the_second_is_kept() -> None:
    assert best_of({"a": FAILED}, {"a": FAILED_AGAIN}) == {"a": FAILED_AGAIN}


def test_a_failure_that_was_not_repeated_stays() -> None:
    assert best_of({"a": FAILED}, {}) == {"a": FAILED}


OPTIONS = Namespace(broker="redis", results="redis", expression=None)


@pytest.fixture
def no_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def tests_of(_: Path) -> Iterator[Path]:
        yield tmp_path

    monkeypatch.setattr(celery, "python_with", lambda *_: tmp_path / "python")
    monkeypatch.setattr(celery, "unpacked", lambda *_: tmp_path)
    monkeypatch.setattr(celery, "_tests_of", tests_of)
    monkeypatch.setattr(program_of_suites, "REASONS", tmp_path)


@pytest.mark.usefixtures("no_downloads")
@pytest.mark.parametrize("failed", ["bare", "mainstay"])
def test_the_other_run_stops_when_one_fails(failed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []

    def one(*arguments: object) -> Report:
        *_, stop, kind = arguments
        if kind == failed:
            raise RuntimeError("no server")
        assert isinstance(stop, threading.Event)
        stopped.append(stop.wait(60))
        return Report({})

    monkeypatch.setattr(celery, "_run", one)
    with pytest.raises(RuntimeError, match="no server"):
        celery.run(OPTIONS, [])
    assert stopped == [True]


@pytest.mark.usefixtures("no_downloads")
def test_tests_that_failed_in_one_of_two_attempts_are_listed_with_their_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attempts: dict[str, tuple[Results, Results]] = {
        "bare": ({"a": FAILED, "b": PASSED, "c": PASSED, "d": FAILED}, {"a": PASSED, "d": FAILED}),
        "mainstay": (
            {"a": FAILED, "b": FAILED, "c": PASSED, "d": FAILED},
            {"a": FAILED_AGAIN, "b": PASSED, "d": FAILED},
        ),
    }

    def one(*arguments: object) -> Report:
        *_, name, _, kind = arguments
        return Report(attempts[str(kind)][str(name).endswith("-2")])

    monkeypatch.setattr(celery, "_run", one)
    pairs = celery.run(OPTIONS, [])
    assert program_of_suites.report("celery", pairs, is_whole=True, output=None) == 1

    said = capsys.readouterr().out
    assert said.partition("Failed in one of two attempts:")[2].strip().splitlines() == [
        "| test | run | message |",
        "|---|---|---|",
        "| `a` | bare | AssertionError |",
        "| `b` | with Mainstay | AssertionError |",
    ]


def program(folder: Path, *lines: str) -> Path:
    """Write a shell script that is run in place of Python."""
    script = folder / "python"
    script.write_text("\n".join(["#!/bin/sh", *lines]))
    script.chmod(0o755)
    return script


def test_a_run_is_killed_at_its_limit(tmp_path: Path) -> None:
    python = program(tmp_path, "exec sleep 600")

    with pytest.raises(RuntimeError, match="was killed"):
        run_pytest(python, tmp_path, [], report=tmp_path / "report.xml", limit_seconds=0.1)


def test_a_run_is_killed_when_it_is_to_stop(tmp_path: Path) -> None:
    python = program(tmp_path, "exec sleep 600")
    stop = threading.Event()
    stop.set()

    with pytest.raises(RuntimeError, match="was killed"):
        run_pytest(python, tmp_path, [], report=tmp_path / "report.xml", stop=stop)


def test_nothing_that_a_test_started_outlives_the_run(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    python = program(
        tmp_path, "exec 3> pipe", "sleep 600 &", "echo '<testsuites/>' > report.xml", "echo said"
    )

    log = tmp_path / "log"
    run_pytest(python, tmp_path, [], report=tmp_path / "report.xml", log=log)

    # A pipe ends when the last process that could write to it has ended.
    assert select.select([reader], [], [], 60.0)[0]
    assert os.read(reader, 1) == b""
    assert log.read_text() == "said\n"
    os.close(reader)
