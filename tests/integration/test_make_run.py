"""`make run` on a fresh copy does all of its own set-up, and Ctrl-C leaves nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from mainstay.processes.ports import steady_port
from mainstay.testing.plugin import leave_out
from mainstay.testing.wait import eventually
from tests.services.platform import environment

ROOT = Path(__file__).parents[2]
FIRST_TIMEOUT_SECONDS = 300
TIMEOUT_SECONDS = 60


@pytest.fixture
def package_index() -> None:
    """Leave the test out where pip cannot find uv, which `make run` asks it for first.

    Nothing of this repository but that pin takes part, so a fault of ours still fails the test.
    """
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    (uv,) = (pin for pin in pins if pin.startswith("uv=="))
    options = ("--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--only-binary=:all:")
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, uv],
        env=environment(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_RETRIES="2", PIP_TIMEOUT="30"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode:
        reason = asked.stderr.strip().splitlines()[-1:]
        leave_out(f"no package index is reachable; pip says: {''.join(reason)}")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A fresh clone, with ports that are free."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    manifest = tmp_path / "mainstay.toml"
    ported = re.sub(
        r"(port = )\d+", lambda found: f"{found[1]}{steady_port()}", manifest.read_text()
    )
    manifest.write_text(ported)
    return tmp_path


@pytest.fixture
def running(copy: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def left_behind(folder: Path) -> list[str]:
    """Return the processes that run programs of *folder* or work in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if str(folder) in command:
                found.append(command)
        except (OSError, UnicodeDecodeError):
            continue
    return found


@pytest.mark.usefixtures("package_index")
def test_a_fresh_copy_runs_stops_and_runs_again(
    copy: Path, running: list[subprocess.Popen[bytes]]
) -> None:
    services = tomllib.loads(copy.joinpath("mainstay.toml").read_text())["service"]
    address = f"http://127.0.0.1:{services['data']['process']['api']['port']}/api/v1"
    log = copy / "output.log"

    for records, timeout_seconds in enumerate((FIRST_TIMEOUT_SECONDS, TIMEOUT_SECONDS), start=1):
        with log.open("wb") as output:
            make = subprocess.Popen(
                ["make", "run"],
                cwd=copy,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running.append(make)

        def answered(make: subprocess.Popen[bytes] = make, records: int = records) -> bool:
            if make.poll() is not None:
                pytest.fail(f"make run has ended: {log.read_text()[-3000:]}")
            body = {"payload": "hello", "description": "uppercase"}
            headers = {"Idempotency-Key": f"record-{records}"}  # asked again, it is stored once
            answer = httpx.post(
                f"{address}/data/process", json=body, headers=headers, timeout=TIMEOUT_SECONDS
            )
            return bool(answer.json()["outcome"]["output"] == "HELLO")

        assert eventually(answered, timeout_seconds=timeout_seconds, every_seconds=0.2)
        counted = httpx.get(
            f"{address}/database/records", params={"count": "true"}, timeout=TIMEOUT_SECONDS
        ).json()
        assert counted["total"] == records  # what the first run stored is still there
        eventually(lambda: "Ctrl-C stops everything" in log.read_text())

        os.killpg(make.pid, signal.SIGINT)  # as a terminal does
        make.wait(TIMEOUT_SECONDS)
        assert eventually(lambda: left_behind(copy) == [])
        assert "Traceback" not in log.read_text()
