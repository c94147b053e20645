"""The groups in which the tests are shared out among the workers of pytest-xdist."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.test_scenarios import DETERMINISTIC
from tests.conftest import SCENARIOS, SLOWEST, group_of

ROOT = Path(__file__).parents[3]


def test_the_slowest_groups_are_groups_of_tests_that_are_there() -> None:
    files = [str(file.relative_to(ROOT)) for file in ROOT.glob("tests/**/test_*.py")]
    groups = {group_of(f"{file}::test_it{kind}") for file in files for kind in ("", "[real]")}
    groups |= {group_of(f"{SCENARIOS}::test_it[{id}]") for id in DETERMINISTIC}
    assert set(SLOWEST) <= groups
