from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mainstay import failpoints
from mainstay.config import Settings
from mainstay.errors import Misconfigured
from mainstay.failpoints import FailpointReached
from mainstay.service import Service
from tests.waiting import PATIENCE_SECONDS


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.disarm()


def test_nothing_happens_at_a_point_that_nobody_asked_for() -> None:
    failpoints.reach("keys.after_claim")
    failpoints.arm("keys.after_claim:raise")
    failpoints.reach("keys.before_claim")


def test_code_can_ask_whether_anything_will_happen() -> None:
    failpoints.arm("keys.after_claim:raise")
    assert failpoints.is_armed("keys.after_claim")
    assert not failpoints.is_armed("keys.before_claim")


def test_it_happens_at_each_arrival() -> None:
    failpoints.arm("keys.after_claim:raise")
    for _ in range(2):
        with pytest.raises(FailpointReached, match=r"keys\.after_claim"):
            failpoints.reach("keys.after_claim")


def test_it_happens_at_one_arrival_alone() -> None:
    failpoints.arm("keys.after_claim:raise@2")
    failpoints.reach("keys.after_claim")
    with pytest.raises(FailpointReached):
        failpoints.reach("keys.after_claim")
    failpoints.reach("keys.after_claim")


def test_it_happens_with_a_chance() -> None:
    never, hardly, always = "keys.before_claim", "keys.after_claim", "keys.after_commit"
    failpoints.arm(f"{never}:raise%0, {hardly}:raise%0.000000001, {always}:raise%100")
    for _ in range(50):
        failpoints.reach(never)
        failpoints.reach(hardly)
        with pytest.raises(FailpointReached):
            failpoints.reach(always)


@pytest.mark.parametrize("asked", ["keys", "keys:burn", "keys:kill@0", "keys:sleep", "Keys:kill"])
def test_another_form_is_refused_with_what_is_accepted(asked: str) -> None:
    with pytest.raises(Misconfigured, match="accepted is NAME:ACTION"):
        failpoints.arm(asked)


def test_a_point_that_the_code_does_not_have_is_refused_with_those_it_has() -> None:
    failpoints.arm("keys.after_claim:raise")
    with pytest.raises(
        Misconfigured, match=r"'keys\.after_claims'; there are .*keys\.after_claim,"
    ):
        failpoints.arm("keys.before_claim:raise,keys.after_claims:kill")
    assert failpoints.is_armed("keys.after_claim")  # and nothing has changed
    assert not failpoints.is_armed("keys.before_claim")


def test_the_points_are_those_that_the_code_names() -> None:
    package = Path(failpoints.__file__).parent
    named = {
        name
        for file in package.rglob("*.py")
        for name in re.findall(r"failpoints\.reach\(\s*\"([^\"]+)\"", file.read_text())
    }
    assert named == failpoints.POINTS


def test_a_killed_process_cleans_nothing_up() -> None:
    script = (
        "from mainstay import failpoints\n"
        "failpoints.arm('keys.after_claim:kill')\n"
        "try: failpoints.reach('keys.after_claim')\n"
        "finally: print('cleaned')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == b""
    assert done.stderr == b"failpoint keys.after_claim: kill\n"


def test_a_stopped_process_goes_on_when_it_is_continued() -> None:
    script = (
        "from mainstay import failpoints\n"
        "failpoints.arm('keys.after_claim:stop')\n"
        "failpoints.reach('keys.after_claim')\n"
        "print('went on')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=PATIENCE_SECONDS)[0] == b"went on\n"


def test_a_process_in_production_refuses_to_start_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, "keys.after_claim:kill")
    service = Service(Settings(env="prod"))
    with pytest.raises(Misconfigured, match="dev and test alone: remove the variable"):
        service.start("api")


def test_a_process_under_test_starts_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, "keys.after_claim:raise")
    service = Service(Settings(env="test"))
    service.start("api")
    try:
        with pytest.raises(FailpointReached):
            failpoints.reach("keys.after_claim")
    finally:
        service.stop()
