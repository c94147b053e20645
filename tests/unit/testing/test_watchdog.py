"""Processes that a run of the tests has left are reported when the run has ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import subprocess, sys
from tests import watchdog
watchdog._ENDING_SECONDS = float(sys.argv[3])
watchdog.guard()
if int(sys.argv[2]):
    subprocess.Popen(["sh", "-c", "setsid sleep " + sys.argv[2] + " & exit"]).wait()
sys.exit(int(sys.argv[1]))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="subreapers are a thing of Linux")


def run(code: int, *, sleep_seconds: int, ending_seconds: float) -> tuple[int, str]:
    """Return the exit code and the messages of tests that leave a process behind."""
    words = (str(code), str(sleep_seconds), str(ending_seconds))
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )
    return ended.returncode, ended.stderr


@pytest.mark.parametrize(("code", "expected"), [(0, 1), (1, 1)])
def test_a_process_that_is_left_is_named_and_fails_the_run(code: int, expected: int) -> None:
    ended, said = run(code, sleep_seconds=600, ending_seconds=0.1)

    assert ended == expected
    assert said.startswith("left running by the tests: ")
    assert said.endswith(" sleep 600\n")


def test_tests_that_were_interrupted_keep_their_exit_code() -> None:
    assert run(2, sleep_seconds=600, ending_seconds=0.1) == (2, "")


def test_a_process_that_is_just_ending_is_waited_for() -> None:
    assert run(0, sleep_seconds=1, ending_seconds=60) == (0, "")


def test_nothing_is_said_when_nothing_is_left() -> None:
    assert run(0, sleep_seconds=0, ending_seconds=60) == (0, "")
