from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from celery.concurrency.asynpool import AsynPool
from kombu.asynchronous import Hub

from mainstay.tasks.celery.consumer import Recent, watch_again


def test_what_happens_twice_in_a_short_time_is_too_often() -> None:
    recent = Recent(2, window_seconds=10)
    assert not recent.note(0)
    assert recent.note(9)


def test_what_happens_now_and_then_is_not() -> None:
    recent = Recent(2, window_seconds=10)
    assert [recent.note(now) for now in (0, 20, 40, 60)] == [False] * 4


def test_a_child_that_ends_while_the_broker_is_away_does_not_end_the_worker() -> None:
    sentinel, other_end = os.pipe()
    # As Celery leaves a child whose end it has noticed, until it is collected.
    child = SimpleNamespace(_sentinel_poll=None, _popen=SimpleNamespace(sentinel=sentinel))
    pool = SimpleNamespace(_pool=[child], _event_process_exit=lambda *_: None)
    hub = Hub()
    # An AttributeError in the versions of kombu that go with Celery 5.6.
    with pytest.raises((ValueError, AttributeError), match=r"file descriptor|fileno"):
        AsynPool._track_child_process(pool, child, hub)
    watch_again(SimpleNamespace(_pool=pool))
    AsynPool._track_child_process(pool, child, hub)
    assert child._sentinel_poll in hub.readers
    hub.close()
    for end in (sentinel, other_end, child._sentinel_poll):
        os.close(end)


def test_pools_without_children_have_none_to_watch() -> None:
    watch_again(SimpleNamespace())
    watch_again(None)
