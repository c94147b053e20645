from __future__ import annotations

import asyncio
import os
import traceback
import warnings

import pytest

from mainstay.tasks.celery import senders


def test_what_waits_in_a_parent_is_not_counted_in_its_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(senders, "SENDERS_LIMIT", 1)
    sending = senders.Senders()

    def fork_and_send() -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the event loop has a thread
            child = os.fork()
        if child == 0:
            try:
                os._exit(asyncio.run(sending.do(lambda: 0)))
            except BaseException:  # noqa: BLE001 - a child must not go on with its parent's tests
                traceback.print_exc()
                os._exit(1)
        return os.waitpid(child, 0)[1]

    assert asyncio.run(sending.do(fork_and_send)) == 0
    sending.close()
