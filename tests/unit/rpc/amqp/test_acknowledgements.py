"""No call is acknowledged with others that are not done, and none is forgotten."""

from __future__ import annotations

from struct import unpack_from

from hypothesis import given
from hypothesis import strategies as st

from mainstay.rpc.amqp.acknowledgements import Acknowledgements


def said(frames: bytes) -> list[tuple[int, bool]]:
    """Return the tag of each frame, and whether it is for all before it too."""
    return [unpack_from(">QB", frames, at + 11) for at in range(0, len(frames), 21)]


def test_a_burst_is_one_frame() -> None:
    settled = Acknowledgements(1)
    assert said(settled.done([1])) == [(1, False)]
    assert said(settled.done([4, 2, 3])) == [(4, True)]
    assert settled.done([]) == b""


def test_what_overtakes_another_is_acknowledged_alone() -> None:
    settled = Acknowledgements(1)
    assert said(settled.done([2, 4])) == [(2, False), (4, False)]
    assert said(settled.done([1])) == [(1, False)]
    assert said(settled.done([5, 3])) == [(5, True)]


def test_what_was_given_back_holds_up_nothing() -> None:
    settled = Acknowledgements(1)
    settled.reject(1, requeue=True)
    assert said(settled.done([2, 3])) == [(3, True)]


@given(st.permutations(range(1, 30)), st.lists(st.integers(1, 5), min_size=30, max_size=30))
def test_whatever_the_order_each_is_acknowledged_when_it_is_done(
    order: list[int], sizes: list[int]
) -> None:
    settled, done, acknowledged = Acknowledgements(1), set[int](), set[int]()
    rest = list(order)
    for size in sizes:
        burst, rest = rest[:size], rest[size:]
        done.update(burst)
        for tag, and_earlier in said(settled.done(burst)):
            acknowledged |= set(range(1, tag + 1)) if and_earlier else {tag}
        assert acknowledged == done
