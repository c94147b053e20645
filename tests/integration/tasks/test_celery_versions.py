"""The room keeps its promises with the oldest Celery that it supports, and with the newest."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import pytest

from mainstay.testing.plugin import leave_out
from tools.environment import environment_of_uv

ROOT = Path(__file__).parents[3]
FAMILY = ("celery", "kombu", "amqp", "vine", "billiard", "redis", "hiredis")
EXTRAS = ("amqp", "celery", "embedded", "redis", "sqlalchemy", "testing")
PLUGINS = "pytest-asyncio\npytest-timeout\n"
CONTRACT = "tests/contract/tasks"
SUITE = (
    f"{CONTRACT}/test_malformed.py",
    f"{CONTRACT}/test_workers.py::test_a_task_whose_process_was_killed_is_done_once_more",
    f"{CONTRACT}/test_workers.py::test_a_task_that_kills_its_process_each_time_is_stopped",
    f"{CONTRACT}/test_workers.py::test_a_task_that_ignores_its_soft_limit_is_killed_and_a_dead_letter",
    f"{CONTRACT}/test_processes.py::test_the_work_of_a_killed_worker_is_done_by_another",
)
UNREACHABLE = re.compile("failed to fetch|error sending request|dns error|timed out", re.IGNORECASE)
UNUSED_SECONDS = 30 * 86_400


@pytest.mark.timeout(900)
@pytest.mark.parametrize("which", ["lowest", "highest"])
def test_the_guard_holds(which: Literal["lowest", "highest"], tmp_path: Path) -> None:
    wanted = resolved(which, tmp_path)
    if all(is_installed(pin) for pin in wanted.values()):
        return  # every other test has these versions
    python = environment(which, wanted, tmp_path)
    ended = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "redis or rabbitmq", *SUITE],
        cwd=ROOT,
        env={
            **{
                name: each for name, each in os.environ.items() if not name.startswith(("PY", "CO"))
            },
            "PYTHONPATH": str(ROOT / "src"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    print(said(wanted), ended.stdout.splitlines()[-1])  # noqa: T201 - which ones they were
    assert ended.returncode == 0, f"with {said(wanted)}:\n{ended.stdout[-6000:]}"


def resolved(which: str, folder: Path) -> dict[str, str]:
    """Return what is to be installed, by its name: of Celery's family the *which* versions that
    fit, of all else those of ``constraints.txt``.
    """
    rest, plugins = folder / "rest.txt", folder / "plugins.in"
    pins = (ROOT / "constraints.txt").read_text().splitlines(keepends=True)
    rest.write_text("".join(pin for pin in pins if pin.partition("==")[0] not in FAMILY))
    plugins.write_text(PLUGINS)
    extras = [word for extra in EXTRAS for word in ("--extra", extra)]
    lines = uv(
        "pip", "compile", "pyproject.toml", str(plugins), *extras,
        "--resolution", which, "--constraint", str(rest), "--no-header", "--no-annotate",
    ).splitlines()  # fmt: skip
    return {pin.partition("==")[0]: pin for pin in lines if "==" in pin}


def is_installed(pin: str) -> bool:
    name, _, wanted = pin.partition("==")
    try:
        return name not in FAMILY or version(name) == wanted.partition(" ")[0]
    except PackageNotFoundError:
        return False


def environment(which: str, wanted: dict[str, str], folder: Path) -> Path:
    """Return the Python of an environment that has what is *wanted*; it is kept for the next time,
    outside of this repository.
    """
    pins = "\n".join(wanted.values())
    key = hashlib.sha256(f"{sys.version}\n{pins}".encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mainstay" / "celery"
    kept = cache / f"{which}-{key}"
    if not kept.exists():
        made, requirements = kept.with_suffix(f".{os.getpid()}"), folder / "wanted.txt"
        requirements.write_text(pins)
        uv("venv", "--relocatable", "--python", sys.executable, str(made))
        uv("pip", "install", "--python", str(made), "--requirement", str(requirements))
        made.rename(kept)
    os.utime(kept)
    for other in cache.iterdir():
        if time.time() - other.stat().st_mtime > UNUSED_SECONDS:
            shutil.rmtree(other)
    return kept / "bin" / "python"


def uv(*arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "uv", "--quiet", *arguments],
        cwd=ROOT,
        env=environment_of_uv(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if ended.returncode:
        if UNREACHABLE.search(ended.stderr):
            leave_out(f"the package index cannot be reached: {ended.stderr.strip()[:200]}")
        pytest.fail(ended.stderr)
    return ended.stdout


def said(wanted: dict[str, str]) -> str:
    return ", ".join(wanted[name] for name in FAMILY if name in wanted)
