"""What the README shows is what happens: each of its blocks is run here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from mainstay.processes.ports import steady_port
from mainstay.testing.wait import eventually
from tests.services.data.platform import write_project
from tests.services.platform import Platform, environment
from tests.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


class Block(NamedTuple):
    """One block of the README: its language, and what it holds."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that the block is, as its first line says."""
        named = re.match(r"# ([\w/]+\.\w+): ", self.text)
        return named[1] if named else None

    @property
    def is_of_make(self) -> bool:
        return self.text.startswith("make ")

    @property
    def is_of_the_shop(self) -> bool:
        return "/charges" in self.text


BLOCKS = [Block(*found) for found in re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", README)]
FILES = [block for block in BLOCKS if block.file]
SHELL = [block for block in BLOCKS if block.language == "sh" and not block.is_of_make]


def typed(block: Block, platform: Platform) -> str:
    """Run *block* as if it was typed beside *platform*, and return what it printed."""
    programs = str(Path(sys.executable).parent)
    text = block.text.replace("localhost:8000", f"127.0.0.1:{platform.ports[0]}")
    ended = subprocess.run(
        ["sh", "-euc", re.sub(r"(\.\./)*\.venv/bin", lambda _: programs, text)],
        cwd=platform.folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, f"{block.text}{ended.stdout}{ended.stderr}"
    return ended.stdout


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("reference")
    ports = [steady_port() for _ in range(3)]
    write_project(folder, ports)
    platform = Platform(folder, ["dev", "--no-reload"], environment(), ports)
    yield platform.start()
    assert platform.stop() == 0


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("shop")
    ports = [steady_port(), steady_port()]
    for block in FILES:
        path = folder / str(block.file)
        path.parent.mkdir(exist_ok=True)
        text = block.text
        if path.name == "mainstay.toml":
            for port in ports:
                text = re.sub(r"port = 8\d+", f"port = {port}", text, count=1)
        path.write_text(text)
    platform = Platform(folder, ["dev", "--no-reload"], environment(), ports)
    yield platform.start()
    assert platform.stop() == 0


def test_every_block_is_run_here() -> None:
    left = [block for block in BLOCKS if block not in (*FILES, *SHELL) and not block.is_of_make]
    assert left == []
    assert len(FILES) == 4


def test_every_command_of_make_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"\bmake ([a-z-]+)", "".join(b.text for b in BLOCKS if b.is_of_make))
    assert named
    assert [name for name in named if f"\n.PHONY: {name}\n" not in makefile] == []


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_platform_does_what_is_typed(reference: Platform) -> None:
    printed = [typed(block, reference) for block in SHELL if not block.is_of_the_shop]
    answers: list[dict[str, Any]] = [json.loads(each) for each in printed if each[0] == "{"]
    called, accepted = answers
    assert called["outcome"]["output"] == "HELLO"

    path = re.search(r"localhost:8000(/\S+/)TASK_ID", README)
    assert path is not None

    def outcome() -> Any:
        status = httpx.get(
            f"{reference.url}{path[1]}{accepted['task_id']}", timeout=PATIENCE_SECONDS
        )
        return status.json()["outcome"]

    assert eventually(outcome)["output"] == [1, 2, 3]


def test_the_documentation_is_where_it_is_said_to_be(reference: Platform) -> None:
    address = re.search(r"<http://localhost:8000(/\S+)>", README)
    assert address is not None
    assert "swagger" in httpx.get(f"{reference.url}{address[1]}", timeout=PATIENCE_SECONDS).text


def test_the_service_in_a_screenful_does_its_work(shop: Platform) -> None:
    (call,) = (block for block in SHELL if block.is_of_the_shop)
    task_id = json.loads(typed(call, shop))["task_id"]

    eventually(lambda: shop.lines(name="shop.worker.charge", outcome="done"))

    def state() -> str:
        return str(json.loads(shop.run("tasks", "show", task_id, "--json").stdout)["state"])

    assert eventually(lambda: state() == "success")
