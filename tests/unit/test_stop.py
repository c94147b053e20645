"""A process is told to stop by a signal, and may be told twice."""

from __future__ import annotations

import os
import signal
import threading

from mainstay.stop import Stop
from tests.waiting import PATIENCE_SECONDS, join


def test_each_signal_counts_once() -> None:
    with Stop() as stop:
        assert not stop.wait(0.0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(PATIENCE_SECONDS)
        assert not stop.wait(0.0)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(PATIENCE_SECONDS)
        assert stop.wait(PATIENCE_SECONDS)


def test_a_terminal_that_goes_stops_it_unless_nohup_has_started_it() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.wait(0.0)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.wait(PATIENCE_SECONDS)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_handlers_from_before_are_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stop():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_the_main_thread_nothing_is_watched() -> None:
    seen: list[bool] = []

    def run() -> None:
        with Stop() as stop:
            seen.extend([stop.is_watching, stop.wait(0.0)])

    thread = threading.Thread(target=run)
    thread.start()
    join(thread)
    assert seen == [False, False]
