"""What was started ends with the one who started it, however that one goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from mainstay.processes.leash import SERVERS, Leash
from mainstay.testing.wait import eventually
from tests.waiting import PATIENCE_SECONDS

# Holds a group with a child of its own, says its number, and then waits to be killed.
HOLDER = """
import subprocess, sys, time
from mainstay.processes.leash import Leash
quiet = {"stdout": subprocess.DEVNULL, "start_new_session": True}
shell = subprocess.Popen(["sh", "-c", sys.argv[1]], **quiet)
leash = Leash(patience_seconds=float(sys.argv[2]))
leash.hold(shell.pid)
print(shell.pid, leash.pid, flush=True)
time.sleep(600)
"""

Hold = Callable[[str, float], tuple["subprocess.Popen[str]", int, int]]


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Start a process that holds a shell on a leash; return it, the shell and the leash."""
    groups: list[int] = []
    holders: list[subprocess.Popen[str]] = []

    def start(script: str, patience_seconds: float) -> tuple[subprocess.Popen[str], int, int]:
        command = [sys.executable, "-c", HOLDER, script, str(patience_seconds)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        holders.append(process)
        assert process.stdout is not None
        shell, leash = map(int, process.stdout.readline().split())
        groups.extend([shell, leash])
        return process, shell, leash

    yield start
    for group in groups:
        if has_members(group):
            os.killpg(group, signal.SIGKILL)
    for each in holders:
        each.kill()
        each.communicate()


def has_members(group: int) -> bool:
    """Is there a process in *group* that runs, and does not only wait to be reaped?"""
    found = subprocess.run(
        ["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split() for line in found.splitlines()]
    return any(int(pgid) == group and not stat.startswith("Z") for pgid, stat in rows)


def test_a_killed_holder_takes_its_groups_with_it(hold: Hold) -> None:
    holder, shell, leash = hold("sleep 600 & wait", 2.0)
    holder.kill()
    eventually(lambda: not has_members(shell))
    eventually(lambda: not has_members(leash))


def test_who_does_not_stop_when_asked_is_killed(hold: Hold) -> None:
    holder, shell, _ = hold("trap '' TERM; sleep 600 & wait; sleep 600", 0.2)
    holder.kill()
    eventually(lambda: not has_members(shell))


def test_signals_of_the_terminal_do_not_reach_the_leash(hold: Hold) -> None:
    holder, shell, leash = hold("sleep 600", 2.0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(leash, number)
    assert has_members(leash)
    assert has_members(shell)
    holder.kill()
    eventually(lambda: not has_members(shell))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_what_is_released_lives_on(sleeper: subprocess.Popen[bytes]) -> None:
    leash = Leash()
    leash.hold(sleeper.pid)
    leash.release(sleeper.pid)
    leash.close()
    assert sleeper.poll() is None


def test_a_leash_that_was_killed_is_replaced_and_told_everything(
    sleeper: subprocess.Popen[bytes],
) -> None:
    leash = Leash(patience_seconds=PATIENCE_SECONDS)
    leash.hold(sleeper.pid, SERVERS)
    first = leash.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not has_members(first))
    leash.hold(sleeper.pid, SERVERS)
    assert leash.pid != first
    leash.close()
    assert sleeper.wait(PATIENCE_SECONDS) == -signal.SIGTERM


def test_a_leash_may_be_closed_twice() -> None:
    leash = Leash()
    leash.close()
    leash.close()


def test_servers_end_after_the_processes_that_use_them(
    sleeper: subprocess.Popen[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    seen = tmp_path_factory.mktemp("seen") / "server"
    script = f"trap 'sleep 0.3; kill -0 {sleeper.pid} && echo there > {seen}; exit' TERM; "
    user = subprocess.Popen(
        ["sh", "-c", script + "echo up; while :; do sleep 0.05; done"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with user:
        assert user.stdout is not None
        user.stdout.readline()
        leash = Leash(patience_seconds=PATIENCE_SECONDS)
        leash.hold(sleeper.pid, SERVERS)
        leash.hold(user.pid)
        leash.close()
        user.wait(PATIENCE_SECONDS)
    assert seen.read_text() == "there\n"
    assert sleeper.wait(PATIENCE_SECONDS) == -signal.SIGTERM
