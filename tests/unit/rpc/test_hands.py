"""Whoever is free works at what was given, and nobody waits for a handler that waits."""

from __future__ import annotations

import threading

from mainstay.rpc.hands import Threads
from mainstay.rpc.intake import Delivery
from mainstay.testing.wait import eventually
from tests.waiting import PATIENCE_SECONDS


def delivery(id: str) -> Delivery:
    return Delivery(id, "", {}, b"", None, None)


def test_each_delivery_is_worked_at_once_however_fast_they_come() -> None:
    done: list[str] = []
    threads = Threads(4, lambda one: done.append(one.id))
    for n in range(5000):
        threads.give(delivery(str(n)))
    eventually(lambda: len(done) == 5000)
    assert sorted(done, key=int) == [str(n) for n in range(5000)]
    threads.close()


def test_one_thread_works_in_the_order_of_what_it_was_given() -> None:
    done: list[str] = []
    threads = Threads(1, lambda one: done.append(one.id))
    for n in range(100):
        threads.give(delivery(str(n)))
    eventually(lambda: len(done) == 100)
    assert done == [str(n) for n in range(100)]
    threads.close()


def test_as_many_work_at_once_as_there_are_threads() -> None:
    together = threading.Barrier(8)
    met: list[str] = []

    def meet(one: Delivery) -> None:
        together.wait(PATIENCE_SECONDS)
        met.append(one.id)

    threads = Threads(8, meet)
    for _ in range(3):
        for n in range(8):
            threads.give(delivery(str(n)))
    eventually(lambda: len(met) == 24)
    threads.close()


def test_who_has_nothing_more_to_do_ends() -> None:
    before = set(threading.enumerate())
    threads = Threads(8, lambda _: None)
    threads.give(delivery("last"))
    threads.close()
    eventually(lambda: set(threading.enumerate()) <= before)
