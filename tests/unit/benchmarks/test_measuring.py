from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pytest

from benchmarks.__main__ import every_row
from benchmarks.environments import Environment
from benchmarks.measuring import run
from benchmarks.row import CPU, WALL, Figure, Lane, Row, Sample, at_least, at_most


class _Nowhere(Environment):
    def versions(self, packages: tuple[str, ...]) -> dict[str, str]:
        return dict.fromkeys(packages, "1.0")


_NOWHERE = _Nowhere("nowhere", (), "")


def _lane(name: str, cpu_seconds: float, done: list[tuple[str, int]]) -> Lane:
    def round_of(units: int) -> Sample:
        done.append((name, units))
        return Sample(units, cpu_seconds * units, units * 2.0, {"memory": 50.0})

    return Lane(name, round_of, ("thing",), _NOWHERE)


@contextmanager
def _lanes(*lanes: Lane) -> Iterator[Sequence[Lane]]:
    yield lanes


def _row(*lanes: Lane, to_try: Callable[[], Lane] | None = None) -> Row:
    return Row(
        "some.row",
        "does something",
        unit="thing",
        units=100,
        goals=(at_most(1.5, times="bare"),),
        lanes=partial(_lanes, *lanes),
        lanes_to_try=None if to_try is None else lambda: _lanes(to_try()),
        warm_up=0,
    )


def test_lanes_have_their_turns_in_another_order_each_round() -> None:
    done: list[tuple[str, int]] = []
    row = _row(_lane("mainstay", 0.2, done), _lane("bare", 0.1, done))

    run(row, rounds=2, share=1.0, say=lambda _: None)

    assert [name for name, _ in done] == ["mainstay", "bare", "bare", "mainstay"]


def test_a_goal_is_held_against_the_ratio_within_each_round() -> None:
    row = _row(_lane("mainstay", 0.2, []), _lane("bare", 0.1, []))

    result = run(row, rounds=3, share=1.0, say=lambda _: None)

    measured = result.of(row.goals[0])
    assert measured.value == pytest.approx(2.0)
    assert measured.spread == pytest.approx(0.0)
    assert row.goals[0].verdict(measured.value) == "missed"


def test_to_try_a_row_out_takes_its_quicker_lanes_and_a_share_of_the_units() -> None:
    whole: list[tuple[str, int]] = []
    tried: list[tuple[str, int]] = []
    row = _row(_lane("mainstay", 0.2, whole), to_try=lambda: _lane("mainstay", 0.2, tried))

    run(row, rounds=1, share=0.2, say=lambda _: None)
    assert (whole, tried) == ([], [("mainstay", 20)])

    run(row, rounds=1, share=1.0, say=lambda _: None)
    assert whole == [("mainstay", 100)]


def test_goals_say_what_they_ask_for() -> None:
    memory = Figure.other("memory", "MiB")

    assert at_most(1.25, times="bare").text("request") == "≤ 1.25 × bare (CPU)"
    assert at_most(5, over="bare", of=memory).text("start") == "≤ +5 MiB over bare"
    assert at_least(48_000, of=CPU).text("row") == "≥ 48000 µs/row (CPU)"
    assert at_most(1.5, of=WALL).text("row") == "≤ 1.5 µs/row (time)"


@pytest.mark.parametrize(
    ("measured", "verdict"), [(0.9, "ahead"), (0.99, "at"), (1.0, "at"), (1.01, "missed")]
)
def test_a_ceiling_is_surpassed_reached_or_missed(measured: float, verdict: str) -> None:
    assert at_most(1.0, times="bare").verdict(measured) == verdict


def test_every_row_has_a_name_of_its_own() -> None:
    names = [row.name for row in every_row()]

    assert len(names) == len(set(names))
    assert {"idempotency.redis", "cold_start", "pages", "outbox.relay"} <= set(names)
