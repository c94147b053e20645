"""An interrupted run of the tests leaves no process and no temporary folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mainstay.testing import PostgreSQL, RabbitMQ, Redis
from mainstay.testing.plugin import leave_out

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="subreapers are a thing of Linux")


def interrupt(kind: str, target: str, number: str, count: int, folder: Path) -> dict[str, Any]:
    module = "tests.integration.testing.interrupting"
    done = subprocess.run(
        [sys.executable, "-m", module, str(folder), kind, target, number, str(count)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        timeout=360,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def need(*servers: type[PostgreSQL | RabbitMQ | Redis]) -> None:
    for server in servers:
        if server.program() is None:
            leave_out(f"{server.package} is not installed: apt-get install {server.package}")


@pytest.mark.parametrize(
    ("target", "signals"),
    [
        ("group", "SIGINT"),
        ("group", "SIGINT twice"),
        ("launcher", "SIGTERM"),
        ("launcher", "SIGKILL"),
        ("watchdog", "SIGKILL"),
        ("worker", "SIGKILL"),
    ],
)
def test_an_interrupted_run_leaves_nothing_behind(
    target: str, signals: str, tmp_path: Path
) -> None:
    need(Redis, PostgreSQL)
    number, _, twice = signals.partition(" ")
    report = interrupt("pytest", target, number, 2 if twice else 1, tmp_path)
    started = " ".join(report["started"])
    for name in ("redis-server", "postgres", "valkey-server", "sleep"):
        assert name in started, report["output"]
    assert report["started"].count("sleep") == 2
    assert report["code"] != 0
    if signals == "SIGINT" or target == "launcher":
        assert report["is_torn_down"]
    assert report["left"] == []
    assert report["files"] == []


@pytest.mark.parametrize("number", ["SIGTERM", "SIGKILL"])
def test_interrupted_fault_scenarios_leave_nothing_behind(number: str, tmp_path: Path) -> None:
    need(Redis, PostgreSQL, RabbitMQ)
    report = interrupt("chaos", "group", number, 1, tmp_path)
    assert {"postgres", "redis-server"} <= set(report["started"]), report["output"]
    assert report["code"] != 0
    assert report["left"] == []
    assert report["files"] == []
