"""A test that starts a process of each kind and then waits to be interrupted.

pytest collects it only where it is named: `interrupting.py` does so.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mainstay.embedded import Valkey
from mainstay.testing import PostgreSQL, Redis


@pytest.fixture
def progress() -> Iterator[Path]:
    """A folder for one file when everything has started, and one after the teardown."""
    folder = Path(os.environ["PROGRESS"])
    yield folder
    (folder / "torn-down").touch()


def test_that_waits(
    progress: Path, redis_server: Redis, postgres: PostgreSQL, embedded_valkey: Valkey
) -> None:
    assert all(server.port for server in (redis_server, postgres, embedded_valkey))
    # Neither the environment nor the session leads from these to the tests, nor, from the second,
    # its parent.
    os.posix_spawnp("sleep", ["sleep", "600"], {}, setsid=True)
    subprocess.run(["sh", "-c", "setsid sleep 600 & exit"], env={}, check=True)
    (progress / "ready").touch()
    threading.Event().wait()
