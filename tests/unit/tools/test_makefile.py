"""Variables of the Makefile reach a program as they are."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HOSTILE = "1; echo INJECTED $(shell echo INJECTED >&2) `echo INJECTED` \"'"


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """A folder whose `python` writes its arguments down, each with a NUL after it."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf \'%s\\0\' "$@" >"${0%/*}/arguments"\n')
    python.chmod(0o755)
    return tmp_path


def arguments(bin_folder: Path, *words: str, **variables: str) -> list[str]:
    """Return the arguments of the program that ``make`` starts."""
    made = subprocess.run(
        ["make", f"BIN={bin_folder}", f"SETUP_PYTHON={bin_folder / 'python'}", *words],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "MAINSTAY_NO_SYSTEM": "1", **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "INJECTED" not in made.stdout + made.stderr
    return (bin_folder / "arguments").read_text().split("\0")[:-1]


@pytest.mark.parametrize(
    ("target", "variables", "expected"),
    [
        (
            "chaos",
            ("SEED", "SIZE", "ONLY", "LOG"),
            [
                *("-m", "tests.chaos", "--seed", HOSTILE, "--size", HOSTILE),
                *("--only", HOSTILE, "--log", HOSTILE),
            ],
        ),
        (
            "test-versions",
            ("ONLY", "WORKERS"),
            ["tools/versions.py", "--only", HOSTILE, f"--numprocesses={HOSTILE}"],
        ),
        (
            "bench",
            ("ROW", "ROUNDS"),
            ["-m", "benchmarks", *HOSTILE.split(), f"--rounds={HOSTILE}"],
        ),
        ("foreign", ("SUITE",), ["-m", "tools.foreign", HOSTILE]),
    ],
)
def test_a_variable_of_the_environment_is_never_part_of_a_command(
    target: str, variables: tuple[str, ...], expected: list[str], bin_folder: Path
) -> None:
    assert arguments(bin_folder, target, **dict.fromkeys(variables, HOSTILE)) == expected


def test_variables_may_be_arguments_of_make(bin_folder: Path) -> None:
    assert arguments(bin_folder, "bench", "ROW=http rpc", "ROUNDS=9", "ARGS=--quick") == [
        *("-m", "benchmarks", "http", "rpc", "--rounds=9", "--quick")
    ]


def test_a_variable_without_a_value_is_left_out(bin_folder: Path) -> None:
    assert arguments(bin_folder, "chaos", SEED="", ONLY="") == ["-m", "tests.chaos"]
    assert arguments(bin_folder, "foreign") == ["-m", "tools.foreign", "--help"]
