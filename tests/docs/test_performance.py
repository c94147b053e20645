"""The page about performance explains every row of the table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.__main__ import every_row
from benchmarks.row import Row

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "performance.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([\w.]+)`", PAGE)


@pytest.mark.parametrize("row", every_row(), ids=lambda row: row.name)
def test_a_row_is_named_with_what_it_measures(row: Row) -> None:
    assert row.name in NAMED or row.name.rpartition(".")[0] in NAMED
