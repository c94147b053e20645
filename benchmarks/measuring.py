"""How is a row run? Its lanes in turn, round after round, each time in another order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from benchmarks.row import CPU, Goal, Lane, Measured, Row, Sample

__all__ = ["Result", "run"]


@dataclass(frozen=True)
class Result:
    """What a row came to."""

    row: Row
    samples: Mapping[str, tuple[Sample, ...]]
    versions: Mapping[str, Mapping[str, str]]
    measured_at: datetime

    def of(self, goal: Goal, lane: str | None = None) -> Measured:
        """Return what *goal* looks at, for its own lane or for another one."""
        mine = self.samples[lane or goal.lane]
        others = self.samples[goal.against] if goal.against else (None,) * len(mine)
        return Measured.of([goal.compare(*pair) for pair in zip(mine, others, strict=True)])

    def plain(self, goal: Goal, lane: str) -> Measured:
        """Return the figure itself of *lane*, compared with nothing."""
        return Measured.of([goal.figure.of(sample) for sample in self.samples[lane]])


def run(row: Row, *, rounds: int, share: float, say: Callable[[str], None]) -> Result:
    """Measure *row*.

    Args:
        rounds: How often each lane has its turn.
        share: How much of a full round to do; with less than all of it, it is only tried out.
        say: Told of the progress.
    """
    units = max(int(row.units * share), 1)
    starting = row.lanes if share >= 1.0 else row.lanes_to_try or row.lanes
    with starting() as lanes:
        versions = {lane.name: lane.environment.versions(lane.packages) for lane in lanes}
        samples: dict[str, list[Sample]] = {lane.name: [] for lane in lanes}
        if row.warm_up:
            for lane in lanes:
                lane.round(max(int(row.warm_up * share), 1))
        for number in range(rounds):
            for lane in _in_turn(lanes, number):
                samples[lane.name].append(lane.round(units))
            say(f"{row.name}: round {number + 1} of {rounds}: {_last(row, samples)}")
    done = {name: tuple(taken) for name, taken in samples.items()}
    return Result(row, done, versions, datetime.now(UTC))


def _in_turn(lanes: Sequence[Lane], number: int) -> list[Lane]:
    """Let another one begin each time, so that none always follows the same neighbour's heat."""
    first = number % len(lanes)
    return [*lanes[first:], *lanes[:first]]


def _last(row: Row, samples: Mapping[str, list[Sample]]) -> str:
    figure = row.goals[0].figure if row.goals else CPU
    unit = figure.unit.format(unit=row.unit)
    figures = [f"{name} {figure.of(taken[-1]):,.4g}" for name, taken in samples.items()]
    return f"{', '.join(figures)} {unit}"
