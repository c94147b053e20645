from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from billiard.pool import ACK
from billiard.queues import _SimpleQueue
from celery.concurrency.asynpool import AsynPool

from mainstay.tasks.celery.pool import Pool


@pytest.mark.parametrize(("last_words", "put_back"), [([(ACK, ())], 0), ([], 1)])
def test_only_what_was_not_begun_is_given_to_another(last_words: list[Any], put_back: int) -> None:
    job = SimpleNamespace(_accepted=False)

    def hear(_words: object) -> None:
        job._accepted = True

    pool: Any = Pool.__new__(Pool)
    pool._state = "run"
    pool._result_handler = SimpleNamespace(on_state_change=hear)
    given: list[Any] = []
    pool._put_back = given.append
    outq = _SimpleQueue()
    for words in last_words:
        outq._writer.send(words)
    pool.on_partial_read(job, SimpleNamespace(dead=True, outq=outq))
    assert len(given) == put_back


def test_a_reconnect_reads_from_no_pipe_of_a_child_that_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registered: dict[int, object] = {}

    def register(pool: Any, hub: object) -> None:
        registered.update(pool._fileno_to_outq)

    monkeypatch.setattr(AsynPool, "register_with_event_loop", register)
    alive, gone = object(), object()
    pool: Any = Pool.__new__(Pool)
    pool._pool = [alive]
    pool._fileno_to_outq = {10: gone, 12: alive}
    pool.register_with_event_loop(object())
    assert registered == {12: alive}
