"""An interrupted run of the tests leaves no process and no temporary folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mainstay.testing import PostgreSQL, Redis
from mainstay.testing.plugin import leave_out

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="subreapers are a thing of Linux")


@pytest.mark.parametrize(
    ("target", "signals"),
    [
        ("group", "SIGINT"),
        ("group", "SIGINT twice"),
        ("group", "SIGTERM"),
        ("launcher", "SIGTERM"),
        ("launcher", "SIGKILL"),
        ("watchdog", "SIGKILL"),
        ("tests", "SIGKILL"),
        ("worker", "SIGKILL"),
    ],
)
def test_an_interrupted_run_leaves_nothing_behind(
    target: str, signals: str, tmp_path: Path
) -> None:
    for server in (Redis, PostgreSQL):
        if server.program() is None:
            leave_out(f"{server.package} is not installed: apt-get install {server.package}")
    number, _, twice = signals.partition(" ")
    module = "tests.integration.testing.interrupting"
    done = subprocess.run(
        [sys.executable, "-m", module, str(tmp_path), target, number, "2" if twice else "1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        timeout=360,
    )
    report = json.loads(done.stdout)
    started = " ".join(report["started"])
    for name in ("redis-server", "postgres", "valkey-server", "sleep"):
        assert name in started, report["output"]
    assert report["started"].count("sleep") == 2
    assert report["code"] != 0
    if signals in {"SIGINT", "SIGTERM"} or target == "launcher":
        assert report["is_torn_down"]
    assert report["left"] == []
    assert report["files"] == []
