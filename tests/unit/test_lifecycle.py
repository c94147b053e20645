"""The four phases of a process, and the pulses of what must go on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mainstay.lifecycle import HEARTBEAT_FILE, Lifecycle, Phase
from tests.waiting import join


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lifecycle(clock: Clock) -> Lifecycle:
    return Lifecycle(clock=clock)


def test_the_phases_come_in_their_order(lifecycle: Lifecycle) -> None:
    seen = [lifecycle.phase]
    for step in (lifecycle.started, lifecycle.drain, lifecycle.stop):
        step()
        seen.append(lifecycle.phase)

    assert seen == [Phase.STARTING, Phase.RUNNING, Phase.DRAINING, Phase.STOPPED]


def test_only_a_running_process_is_ready(lifecycle: Lifecycle) -> None:
    ready = [lifecycle.is_ready]
    steps: list[Callable[[], None]] = [lifecycle.started, lifecycle.drain, lifecycle.stop]
    for step in steps:
        step()
        ready.append(lifecycle.is_ready)

    assert ready == [False, True, False, False]


def test_a_start_that_comes_after_draining_changes_nothing(lifecycle: Lifecycle) -> None:
    lifecycle.drain()
    lifecycle.started()

    assert lifecycle.phase is Phase.DRAINING


def test_a_process_that_has_stopped_may_begin_anew(lifecycle: Lifecycle, clock: Clock) -> None:
    called: list[str] = []
    lifecycle.on_drain(lambda: called.append("first"))
    lifecycle.pulse("loop", limit_seconds=1)
    assert not lifecycle.renew()
    lifecycle.started()
    lifecycle.stop()
    clock.now += 10

    assert lifecycle.renew()
    assert (lifecycle.phase, lifecycle.draining.is_set()) == (Phase.STARTING, False)
    assert lifecycle.is_progressing
    lifecycle.started()
    lifecycle.on_drain(lambda: called.append("second"))
    assert lifecycle.is_ready
    lifecycle.stop()

    assert called == ["first", "second"]


def test_callbacks_are_called_once_and_stops_in_reverse(lifecycle: Lifecycle) -> None:
    called: list[str] = []
    for name in ("a", "b"):
        lifecycle.on_drain(lambda name=name: called.append(f"drain {name}"))  # type: ignore[misc]  # binds the name
        lifecycle.on_stop(lambda name=name: called.append(f"stop {name}"))  # type: ignore[misc]  # likewise

    lifecycle.drain()
    lifecycle.drain()
    lifecycle.stop()
    lifecycle.stop()

    assert called == ["drain a", "drain b", "stop b", "stop a"]


def test_stopping_drains_first(lifecycle: Lifecycle) -> None:
    called: list[str] = []
    lifecycle.on_stop(lambda: called.append("stop"))
    lifecycle.on_drain(lambda: called.append("drain"))

    lifecycle.stop()

    assert called == ["drain", "stop"]
    assert lifecycle.draining.is_set()


@pytest.mark.parametrize("step", ["drain", "stop"])
def test_a_callback_that_raises_keeps_no_other_from_its_work(
    lifecycle: Lifecycle, step: str
) -> None:
    called: list[str] = []

    def broken() -> None:
        raise OSError("gone")

    register = getattr(lifecycle, f"on_{step}")
    register(lambda: called.append("first"))
    register(broken)
    register(lambda: called.append("last"))

    with pytest.raises(ExceptionGroup) as caught:
        getattr(lifecycle, step)()

    assert sorted(called) == ["first", "last"]
    assert isinstance(caught.value.exceptions[0], OSError)


def test_what_is_registered_after_draining_is_called_at_once(lifecycle: Lifecycle) -> None:
    lifecycle.drain()
    called: list[int] = []

    lifecycle.on_drain(lambda: called.append(1))

    assert called == [1]


def test_a_signal_that_interrupts_draining_does_not_wait_for_itself(lifecycle: Lifecycle) -> None:
    lifecycle.on_drain(lifecycle.drain)
    done = threading.Thread(target=lifecycle.drain, daemon=True)

    done.start()
    join(done)


def test_a_pulse_without_a_beat_is_stuck(lifecycle: Lifecycle, clock: Clock) -> None:
    pulse = lifecycle.pulse("poll", limit_seconds=5)

    progressing = []
    for seconds in (5, 0.1):
        clock.now += seconds
        progressing.append(lifecycle.is_progressing)
    assert progressing == [True, False]
    assert pulse.is_stuck
    assert pulse.age_seconds == pytest.approx(5.1)

    pulse.beat()
    assert lifecycle.is_progressing


def test_a_pulse_of_one_name_is_one(lifecycle: Lifecycle) -> None:
    assert lifecycle.pulse("poll", limit_seconds=5) is lifecycle.pulse("poll", limit_seconds=5)
    assert len(lifecycle.pulses) == 1


def test_a_pulse_that_ended_is_not_expected(lifecycle: Lifecycle, clock: Clock) -> None:
    lifecycle.pulse("poll", limit_seconds=5)
    clock.now += 60

    lifecycle.end_pulse("poll")
    lifecycle.end_pulse("poll")

    assert lifecycle.is_progressing


def test_the_heartbeat_touches_its_file_once_a_second(
    lifecycle: Lifecycle, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "heartbeat"
    monkeypatch.setenv(HEARTBEAT_FILE, str(file))

    lifecycle.heartbeat()
    assert file.exists()
    os.utime(file, (1, 1))
    clock.now += 0.5
    lifecycle.heartbeat()
    assert file.stat().st_mtime == 1

    clock.now += 0.6
    lifecycle.heartbeat()
    assert file.stat().st_mtime != 1


def test_a_stuck_process_has_no_heartbeat(
    lifecycle: Lifecycle, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "heartbeat"
    monkeypatch.setenv(HEARTBEAT_FILE, str(file))
    lifecycle.pulse("poll", limit_seconds=5)
    clock.now += 60

    lifecycle.heartbeat()

    assert not file.exists()


def test_without_a_place_for_it_the_heartbeat_does_nothing(
    lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(HEARTBEAT_FILE, raising=False)
    lifecycle.heartbeat()
    monkeypatch.setenv(HEARTBEAT_FILE, str(tmp_path / "no" / "folder"))
    lifecycle.heartbeat()
