"""A Flask service under `mainstay dev`: a change is seen, its health is told, Ctrl-C stops it."""

from __future__ import annotations

from pathlib import Path

import httpx

from mainstay.processes.ports import steady_port
from mainstay.testing.wait import eventually
from tests.services.books.platform import write_project
from tests.services.platform import Platform, environment


def test_a_change_is_seen_health_is_told_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    ports = [steady_port(), steady_port()]
    write_project(tmp_path, ports)
    command = ["dev", "--only", "books.api"]
    platform = Platform(tmp_path, command, environment(), ports[:1]).start()
    try:
        assert platform.run("health", "books.api").returncode == 0
        texts = tmp_path / "services/books/books/texts.py"
        texts.write_text(texts.read_text().replace("How it works", "How it goes"))
        eventually(lambda: "How it goes" in httpx.get(platform.url).text)
        assert "texts.py changed: starting books.api again" in platform.output
    finally:
        assert platform.stop() == 0
    assert platform.pids("books.api") == []
    assert platform.run("health", "books.api").returncode == 1
    assert not platform.lines(event="crashed")
