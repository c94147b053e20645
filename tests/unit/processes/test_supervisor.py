"""Processes are kept running, reloaded, and stopped with all that they have started."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mainstay.processes.leash import Leash
from mainstay.processes.output import Output
from mainstay.processes.supervisor import Launch, Supervisor, backoff_seconds, describe_end
from mainstay.testing.wait import eventually
from tests.waiting import PATIENCE_SECONDS, join


class Running:
    """A supervisor in a thread, and what it has said."""

    def __init__(self, folder: Path, scripts: dict[str, str], **options: Any) -> None:
        self.said = io.BytesIO()
        self.code: int | None = None
        self.leash = Leash(patience_seconds=PATIENCE_SECONDS)
        output = Output(scripts, colour=False, stream=self.said)
        patience_seconds = options.pop("patience_seconds", PATIENCE_SECONDS)
        first = options.pop("stops_first", ())
        self.supervisor = Supervisor(
            [
                Launch(
                    name,
                    ["sh", "-c", script],
                    dict(os.environ),
                    folder,
                    patience_seconds,
                    stops_first=name in first,
                )
                for name, script in scripts.items()
            ],
            leash=self.leash,
            note=output.note,
            output=output,
            **options,
        )
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.code = self.supervisor.run()

    @property
    def text(self) -> str:
        return self.said.getvalue().decode()

    def says(self, pattern: str, times: int = 1) -> None:
        eventually(lambda: len(re.findall(pattern, self.text)) >= times)

    def stop(self) -> int | None:
        self.supervisor.stop()
        return self.ends()

    def ends(self) -> int | None:
        join(self.thread)
        return self.code


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Run shell scripts under a supervisor, by name."""
    started: list[Running] = []

    def begin(scripts: dict[str, str], **options: Any) -> Running:
        started.append(Running(tmp_path, scripts, **options))
        return started[-1]

    yield begin
    for each in started:
        each.supervisor.stop()
        each.supervisor.stop()
        join(each.thread)
        each.leash.close()


STAYS = "trap 'echo drained; exit 0' TERM; echo up $$; while :; do sleep 0.05; done"


def test_each_line_has_the_name_of_its_process(start: Start) -> None:
    running = start({"data.api": STAYS, "b": "echo wrong >&2; " + STAYS})
    running.says(r"data\.api \| up \d+\n")
    running.says(r"b        \| wrong\n")
    assert running.stop() == 0
    assert len(re.findall(r"\| drained\n", running.text)) == 2


def test_what_others_serve_has_ended_before_they_are_asked_to(start: Start) -> None:
    slow = STAYS.replace("echo drained", "sleep 0.5; echo drained")
    running = start({"worker": STAYS, "api": slow}, stops_first={"api"})
    running.says("up", times=2)
    assert running.stop() == 0
    ends = re.findall(r"(\w+) +\| drained", running.text)
    assert ends == ["api", "worker"]


def test_a_process_that_ends_is_started_again(start: Start) -> None:
    running = start({"a": "echo once; exit 3", "b": STAYS})
    running.says(r"a ended with exit code 3; starting it again in 0\.1 s")
    running.says(r"\| once", times=2)
    running.says(r"starting it again in 0\.2 s")
    assert running.stop() == 0


def test_a_process_that_is_killed_is_started_again(start: Start) -> None:
    running = start({"a": STAYS})
    running.says("up")
    os.kill(running.supervisor.pids()["a"], signal.SIGKILL)
    running.says("a was ended by SIGKILL; starting it again")
    running.says("up", times=2)
    assert running.stop() == 0


def test_what_a_process_leaves_in_its_group_is_killed_with_it(start: Start) -> None:
    running = start({"a": "sleep 600 & echo child $!; wait; exit 0"})
    running.says(r"child \d+")
    found = re.search(r"child (\d+)", running.text)
    assert found is not None
    child = int(found[1])
    assert running.stop() == 0
    eventually(lambda: not is_running(child))


def test_who_does_not_stop_in_time_is_killed(start: Start) -> None:
    stubborn = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    running = start({"a": stubborn}, patience_seconds=0.2)
    running.says("up")
    assert running.stop() == 0
    assert "a has not stopped in time and is killed" in running.text


def test_asked_a_second_time_it_kills_at_once(start: Start) -> None:
    stubborn = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    running = start({"a": stubborn}, patience_seconds=600.0)
    running.says("up")
    running.supervisor.stop()
    running.says("stopping")
    assert running.stop() == 0


def test_a_refused_configuration_ends_run_with_its_exit_code(start: Start) -> None:
    running = start({"a": "echo PORT is wrong >&2; exit 78", "b": STAYS})
    assert running.ends() == 78
    assert "PORT is wrong" in running.text
    assert "a refuses its configuration" in running.text


def test_a_refused_configuration_waits_in_dev_for_a_change(start: Start, tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    script = f"test -e {mended} || exit 78; {STAYS}"
    running = start({"a": script, "b": STAYS}, waits_for_change=True)
    running.says("a refuses its configuration.*when a file changes")
    assert running.supervisor.refused == {"a"}
    mended.touch()
    running.supervisor.restart(["a"], "settings.py changed")
    running.says(r"settings\.py changed: starting a again")
    running.says(r"a .*\| up")
    assert running.supervisor.refused == set()
    assert running.stop() == 0


def test_code_that_cannot_be_imported_waits_for_a_change_where_one_may_come(start: Start) -> None:
    waiting = start({"a": "echo SyntaxError; exit 70", "b": STAYS}, waits_for_change=True)
    waiting.says("a cannot be imported.*when a file changes")
    assert waiting.supervisor.refused == {"a"}
    assert waiting.stop() == 0
    trying = start({"a": "exit 70", "b": STAYS})
    trying.says("a ended with exit code 70; starting it again in 0.2 s")
    assert trying.stop() == 0


def test_a_change_starts_again_what_it_concerns_and_nothing_else(start: Start) -> None:
    running = start({"a": STAYS, "b": STAYS})
    running.says("up", times=2)
    before = running.supervisor.pids()
    running.supervisor.restart(["a"], "a.py changed")
    running.says("up", times=3)
    after = running.supervisor.pids()
    assert before["a"] != after["a"]
    assert before["b"] == after["b"]
    assert "starting it again" not in running.text
    assert running.stop() == 0


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    said: list[str] = []
    leash = Leash()
    supervisor = Supervisor(
        [Launch("a", ["no-such-program"], {"PATH": "/bin"}, tmp_path)],
        leash=leash,
        note=said.append,
    )
    assert supervisor.run() == 78
    leash.close()
    assert said == ["a cannot be started: no-such-program: No such file or directory"]


def test_the_pause_before_a_start_grows_to_five_seconds() -> None:
    assert [backoff_seconds(n) for n in (0, 1, 2, 5, 6, 1000)] == [0.1, 0.2, 0.4, 3.2, 5.0, 5.0]


def test_an_end_is_described_by_code_or_signal() -> None:
    assert describe_end(1) == "ended with exit code 1"
    assert describe_end(-signal.SIGSEGV) == "was ended by SIGSEGV"
    assert describe_end(-60) == "was ended by signal 60"


def is_running(pid: int) -> bool:
    found = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return bool(found) and not found.startswith("Z")


if sys.platform == "linux":
    from mainstay.processes.strays import find_strays, stop_strays

    def test_strays_are_found_by_their_mark_and_stopped() -> None:
        marked = {**os.environ, "MAINSTAY_RUN": "a-mark-of-this-test"}
        stray = subprocess.Popen(["sleep", "600"], env=marked)
        (found,) = eventually(lambda: find_strays("MAINSTAY_RUN", "a-mark-of-this-test"))
        assert (found.pid, found.command_line) == (stray.pid, "sleep 600")
        stop_strays([found])
        assert stray.wait(PATIENCE_SECONDS) == -signal.SIGTERM

    def test_a_process_above_us_is_no_stray() -> None:
        script = (
            "import os; from mainstay.processes.strays import find_strays; "
            "print(len(find_strays('MAINSTAY_RUN', 'another-mark')))"
        )
        marked = {**os.environ, "MAINSTAY_RUN": "another-mark"}
        command = f'{sys.executable} -c "{script}"; true'
        found = subprocess.run(
            ["sh", "-c", command], env=marked, capture_output=True, text=True, check=True
        )
        assert found.stdout == "0\n"
