from __future__ import annotations

import os
import threading

import pytest

from mainstay import forks
from mainstay.testing import eventually
from tests.waiting import PATIENCE_SECONDS, join


def test_a_fork_waits_until_no_thread_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "PATIENCE_SECONDS", PATIENCE_SECONDS)
    forks.guard()
    ended = threading.Event()
    began = threading.Event()

    def work() -> None:
        with forks.work():
            began.set()
            eventually(lambda: forks._gate.is_forking)
            ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert began.wait(PATIENCE_SECONDS)
    child = os.fork()
    if child == 0:
        os._exit(0 if ended.is_set() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    join(thread)


def test_a_fork_need_not_wait_for_long_work_that_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "PATIENCE_SECONDS", PATIENCE_SECONDS)
    forks.guard()
    began, ended = threading.Event(), threading.Event()

    def work() -> None:
        with forks.work():
            began.set()
            while not ended.is_set():
                forks.give_way()

    thread = threading.Thread(target=work)
    thread.start()
    assert began.wait(PATIENCE_SECONDS)
    child = os.fork()
    if child == 0:
        os._exit(forks._gate.working)
    ended.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    join(thread)
    assert forks._gate.working == 0


def test_a_child_can_work_although_its_parent_was_forking() -> None:
    forks.guard()
    child = os.fork()
    if child == 0:
        with forks.work():
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_work_goes_on_after_a_fork() -> None:
    forks.guard()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    done = threading.Event()

    def work() -> None:
        with forks.work():
            done.set()

    threading.Thread(target=work).start()
    assert eventually(done.is_set)


def test_a_child_is_of_another_generation_and_its_parent_is_not() -> None:
    before = forks.generation()
    child = os.fork()
    if child == 0:
        os._exit(0 if forks.generation() == before + 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert forks.generation() == before
