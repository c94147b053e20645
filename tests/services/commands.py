"""What a user types in a service's folder: plain `flask`, `celery`, `alembic`, `schemathesis`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.services.platform import Platform
from tests.waiting import PATIENCE_SECONDS

__all__ = ["check_document", "do", "running"]

PROGRAMS = Path(sys.executable).parent
EXAMPLES = int(os.environ.get("EXAMPLES") or 15)
"""How many requests schemathesis makes up for each operation of a document."""


def do(
    folder: Path,
    env: Mapping[str, str],
    *command: str,
    exit_code: int = 0,
    timeout_seconds: float = PATIENCE_SECONDS,
) -> subprocess.CompletedProcess[str]:
    """Type a command in *folder*, and return what it says; it ends with *exit_code*."""
    ended = subprocess.run(
        [PROGRAMS / command[0], *command[1:]],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    assert ended.returncode == exit_code, ended.stdout[-20_000:] + ended.stderr[-4_000:]
    return ended


@contextmanager
def running(
    folder: Path, env: Mapping[str, str], log: Path, *command: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Type a command in *folder*, and stop what it starts, if it is still there."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [PROGRAMS / command[0], *command[1:]],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_SECONDS)
        finally:
            process.kill()
            process.wait()


def check_document(platform: Platform, path: str) -> None:
    """Ask in every way that the OpenAPI document at *path* allows, and in some that it does not: no
    answer may be a 5xx, or one that it does not tell of.
    """
    do(
        platform.folder,
        platform.env,
        "schemathesis",
        "run",
        f"{platform.url}{path}",
        "--checks=all",
        # What fits may be refused for good reason: one Idempotency-Key with two bodies, an id that
        # is taken, a cursor that was made up.
        "--exclude-checks=positive_data_acceptance",
        f"--max-examples={EXAMPLES}",
        "--seed=20261120",
        "--no-color",
        timeout_seconds=max(800.0, 20.0 * EXAMPLES),
    )
