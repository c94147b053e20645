"""What the page on the schedule shows is what happens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from mainstay.processes.ports import steady_port
from mainstay.testing.wait import eventually
from tests.services.platform import Platform, environment
from tests.waiting import PATIENCE_SECONDS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "schedule.md"
BLOCKS = re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"))


@pytest.fixture
def reports(tmp_path: Path) -> Iterator[Platform]:
    """The service of the page: its one file, and its one process."""
    (_, module), (_, process) = BLOCKS
    port = steady_port()
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "worker.py").write_text(module.replace("30.0", "1.0"))
    (tmp_path / "mainstay.toml").write_text(
        '[service.reports]\npath = "."\ndatabase = true\n' + process.replace("8106", str(port))
    )
    platform = Platform(tmp_path, ["dev", "--no-reload"], environment(), [port])
    yield platform.start()
    assert platform.stop() == 0


def test_the_process_of_kind_beat_fires_what_is_due(reports: Platform) -> None:
    def has_ticked() -> bool:
        told = httpx.get(f"{reports.url}/metrics", timeout=PATIENCE_SECONDS).text
        return "app_last_iteration_timestamp_seconds" in told

    assert eventually(has_ticked)
    assert httpx.get(f"{reports.url}/healthz", timeout=PATIENCE_SECONDS).status_code == 200
    assert httpx.get(f"{reports.url}/ready", timeout=PATIENCE_SECONDS).status_code == 200
    assert "reports.worker.refresh" in reports.run("tasks", "ls").stdout
