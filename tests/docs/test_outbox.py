"""What the page about the outbox shows is what happens."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from mainstay.processes.ports import steady_port
from mainstay.testing.wait import eventually
from tests.services.platform import Platform, environment
from tests.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "outbox.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", PAGE)


@pytest.fixture
def orders(tmp_path: Path) -> Iterator[Platform]:
    """The service of the page: its one file, and its one process."""
    (_, module), (_, process) = BLOCKS
    port = steady_port()
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders" / "worker.py").write_text(module)
    (tmp_path / "mainstay.toml").write_text(
        '[service.orders]\npath = "."\ndatabase = true\n' + process.replace("8104", str(port))
    )
    platform = Platform(tmp_path, ["dev", "--no-reload"], environment(), [port])
    yield platform.start()
    assert platform.stop() == 0


def test_every_block_is_run_here() -> None:
    assert [language for language, _ in BLOCKS] == ["python", "toml"]


def test_what_is_placed_is_relayed_by_the_process(orders: Platform) -> None:
    placing = "from orders.worker import place; print(place(4711))"
    placed = subprocess.run(
        [sys.executable, "-c", placing],
        cwd=orders.folder,
        env=environment(PYTHONPATH=str(orders.folder)),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert placed.returncode == 0, placed.stderr
    shown = orders.run("tasks", "show", placed.stdout.strip(), "--json")
    assert json.loads(shown.stdout)["state"] == "waiting"

    def relayed() -> bool:
        told = httpx.get(f"{orders.url}/metrics", timeout=PATIENCE_SECONDS).text
        return (
            "app_last_iteration_timestamp_seconds" in told
            and 'mainstay_outbox_messages{kind="task",state="ready"} 0.0' in told
        )

    assert eventually(relayed)
    assert httpx.get(f"{orders.url}/healthz", timeout=PATIENCE_SECONDS).status_code == 200
