from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from billiard.pool import ACK
from billiard.queues import _SimpleQueue

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
