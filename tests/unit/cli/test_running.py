"""How `mainstay run` starts processes: what their settings say holds for one and for several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mainstay.cli import running
from mainstay.cli.running import run_processes
from mainstay.processes.ports import steady_port
from mainstay.processes.supervisor import Launch

MANIFEST = """
[service.data]
path = "."
[service.data.process.api]
kind = "http"
target = "data.api:app"
port = {port}
workers = 3
[service.data.process.calls]
kind = "rpc"
target = "data.calls:main"
"""


class Replaced(Exception):
    """A process has taken the place of the command."""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What would have been started, by the process' name."""
    (tmp_path / "mainstay.toml").write_text(MANIFEST.format(port=steady_port()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", "redis://h/0")
    found: dict[str, list[str]] = {}

    def supervise(launches: Sequence[Launch]) -> int:
        found.update({each.name: list(each.command) for each in launches})
        return 0

    def become(command: str, arguments: list[str], environ: dict[str, str]) -> None:
        found[environ["MAINSTAY_PROCESS"]] = arguments
        raise Replaced

    monkeypatch.setattr(running, "_supervise", supervise)
    monkeypatch.setattr("os.execvpe", become)
    return found


def workers(command: list[str]) -> str:
    return command[command.index("--workers") + 1]


@pytest.mark.parametrize("source", ["environment", "file"])
def test_workers_are_as_many_for_all_processes_as_for_one(
    commands: dict[str, list[str]], source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_processes(["data"])
    assert workers(commands["data.api"]) == "3"
    if source == "environment":
        monkeypatch.setenv("APP_WORKERS", "2")
    else:
        Path(".env").write_text("APP_WORKERS=2\n")
    run_processes(["data"])
    assert workers(commands["data.api"]) == "2"
    assert "--workers" not in commands["data.calls"]
    commands.clear()
    with pytest.raises(Replaced):
        run_processes(["data.api"])
    assert workers(commands["data.api"]) == "2"
