"""Interrupt a run of the tests, or of the fault scenarios, and report what stays.

    python -m tests.integration.testing.interrupting FOLDER pytest|chaos TARGET SIGNAL COUNT

As a subreaper this process becomes the parent of whatever the run leaves behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from mainstay.processes import facts
from mainstay.testing import eventually
from tests.watchdog import become_subreaper, descendants, end_descendants

LIMIT_SECONDS = 120.0


def main(
    folder: Path, kind: str, target: str, number: signal.Signals, count: int
) -> dict[str, object]:
    temporary = folder / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "PROGRESS": str(folder), "TMPDIR": str(temporary)}
    with (folder / "output").open("wb") as output:
        run = subprocess.Popen(
            [sys.executable, "-m", *command(kind, folder, has_worker=target == "worker")],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    eventually(
        lambda: is_ready(kind, folder) or run.poll() is not None,
        timeout_seconds=LIMIT_SECONDS,
    )
    started = sorted(map(program, descendants()))
    for _ in range(count):
        if target == "group":
            os.killpg(run.pid, number)
        else:
            os.kill(pid_of(target, run.pid), number)
    code = run.wait(LIMIT_SECONDS)
    with contextlib.suppress(AssertionError):  # the report says what is left
        eventually(lambda: not descendants(), timeout_seconds=LIMIT_SECONDS)
    return {
        "started": started,
        "code": code,
        "is_torn_down": (folder / "torn-down").exists(),
        "left": sorted(map(program, descendants())),
        "files": sorted(path.name for path in temporary.iterdir()),
        "output": (folder / "output").read_text(),
    }


def command(kind: str, folder: Path, *, has_worker: bool) -> list[str]:
    """Return the module to run, with its arguments."""
    if kind == "chaos":
        return ["tests.chaos", "--only", "6"]
    tests = Path(__file__).with_name("interrupted.py")
    options = ["-p", "no:cacheprovider", "-n", "1" if has_worker else "0"]
    return [
        *("pytest", str(tests), f"--basetemp={folder / 'pytest'}"),
        *(*options, "--max-worker-restart=0"),
    ]


def is_ready(kind: str, folder: Path) -> bool:
    """Tell whether the run has started all that it is to be interrupted with."""
    started = list(map(program, descendants()))
    if kind == "chaos":
        return "redis-server" in started  # the last of its servers
    # A shell in the background becomes `sleep` only after the test has gone on.
    return (folder / "ready").exists() and started.count("sleep") == 2


def pid_of(target: str, launcher: int) -> int:
    pid = launcher
    for name in ("launcher", "watchdog", "tests", "worker"):
        if name == target:
            break
        pid = next(each for each in sorted(descendants()) if facts.parent(each) == pid)
    return pid


def program(pid: int) -> str:
    command = (facts.command_line(pid) or "").split()
    return Path(command[0]).name if command else ""


if __name__ == "__main__":
    become_subreaper()
    try:
        place, kind, target, number, count = sys.argv[1:]
        report = main(Path(place), kind, target, signal.Signals[number], int(count))
        sys.stdout.write(json.dumps(report))
    finally:
        end_descendants()
