"""What is measured, beside whom, and what is good enough?

A row is one small file in ``rows/`` that defines a ``ROW``. Its lanes do the same work in
different ways and run in turn, so what slows the machine for a while slows them all; a goal looks
at the ratio of two lanes within each round, and takes the median of the rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.environments import OURS, PEERS, Environment

__all__ = [
    "CPU",
    "OURS_LANE",
    "RATE",
    "WALL",
    "Figure",
    "Goal",
    "Lane",
    "Measured",
    "Round",
    "Row",
    "Sample",
    "Verdict",
    "at_least",
    "at_most",
]

OURS_LANE = "mainstay"
"""The lane that goals are about, unless they name another one."""

# Better than the goal by less than this is called reached, not surpassed.
_CLEARLY = 0.05

Verdict = Literal["ahead", "at", "missed"]


@dataclass(frozen=True)
class Sample:
    """What one round of one lane came to.

    Args:
        units: How many units of work were done, every reply checked.
        cpu_seconds: What the measured processes, and their children, took of the processor.
        wall_seconds: How long it took.
        others: Whatever else a row wants to look at, by name.
    """

    units: int
    cpu_seconds: float
    wall_seconds: float
    others: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """One number of a sample: ``CPU``, ``RATE``, ``WALL``, or one of a row's own.

    Args:
        name: What it is called in the table.
        unit: ``{unit}`` in it stands for the row's unit of work.
        of: Reads it off a sample.
    """

    name: str
    unit: str
    of: Callable[[Sample], float]

    @classmethod
    def other(cls, name: str, unit: str) -> Figure:
        """Read what a lane put into :attr:`Sample.others`."""
        return cls(name, unit, lambda sample: sample.others[name])


CPU = Figure("CPU", "µs/{unit}", lambda sample: sample.cpu_seconds / sample.units * 1e6)
RATE = Figure("rate", "{unit}s/s", lambda sample: sample.units / sample.wall_seconds)
WALL = Figure("time", "µs/{unit}", lambda sample: sample.wall_seconds / sample.units * 1e6)

Round = Callable[[int], Sample]
"""Does so many units of work and says what it took; raises where a reply was not right."""


@dataclass(frozen=True)
class Lane:
    """One way to do the work.

    Args:
        name: What it is called in the table; :data:`OURS_LANE` for the library.
        round: Runs one round of it.
        packages: The distributions whose versions matter.
        environment: Where they are installed.
    """

    name: str
    round: Round
    packages: tuple[str, ...] = ()
    environment: Environment = OURS


@dataclass(frozen=True)
class Measured:
    """What the rounds of a goal came to: the median, and how far the middle half of them lies."""

    value: float
    spread: float
    rounds: tuple[float, ...]

    @classmethod
    def of(cls, rounds: Sequence[float]) -> Measured:
        value = statistics.median(rounds)
        if len(rounds) < 2:
            return cls(value, 0.0, tuple(rounds))
        low, _, high = statistics.quantiles(rounds, n=4, method="inclusive")
        return cls(value, (high - low) / 2, tuple(rounds))


@dataclass(frozen=True)
class Goal:
    """What a lane is to reach; made with :func:`at_most` and :func:`at_least`."""

    limit: float
    is_ceiling: bool
    figure: Figure
    lane: str
    times: str | None
    over: str | None

    @property
    def against(self) -> str | None:
        """The lane it is compared with."""
        return self.times or self.over

    def compare(self, lane: Sample, other: Sample | None) -> float:
        """Return what of one round is held against the limit."""
        mine = self.figure.of(lane)
        if other is None:
            return mine
        theirs = self.figure.of(other)
        return mine / theirs if self.times else mine - theirs

    def verdict(self, measured: float) -> Verdict:
        """Is it surpassed, reached or missed?"""
        if self.is_ceiling:
            if measured > self.limit:
                return "missed"
            return "ahead" if measured <= self.limit - _CLEARLY * abs(self.limit) else "at"
        if measured < self.limit:
            return "missed"
        return "ahead" if measured >= self.limit + _CLEARLY * abs(self.limit) else "at"

    def text(self, unit: str) -> str:
        """Say it: ``≤ 1.25 × bare (CPU)``."""
        sign = "≤" if self.is_ceiling else "≥"
        if self.times:
            return f"{sign} {self.limit:g} × {self.times} ({self.figure.name})"
        measure = self.figure.unit.format(unit=unit)
        if self.over:
            return f"{sign} +{self.limit:g} {measure} over {self.over}"
        return f"{sign} {self.limit:g} {measure} ({self.figure.name})"


def at_most(
    limit: float,
    *,
    times: str | None = None,
    over: str | None = None,
    of: Figure = CPU,
    lane: str = OURS_LANE,
) -> Goal:
    """Ask for *limit* or less: *times* another lane, that much *over* it, or by itself."""
    return Goal(limit, True, of, lane, times, over)


def at_least(
    limit: float,
    *,
    times: str | None = None,
    over: str | None = None,
    of: Figure = CPU,
    lane: str = OURS_LANE,
) -> Goal:
    """Ask for *limit* or more; as :func:`at_most`."""
    return Goal(limit, False, of, lane, times, over)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        name: Dotted, from the way in to the detail: ``http.edge``; what ``make bench ROW=`` takes.
        title: What the lanes do, for people.
        unit: One unit of work, in the singular.
        units: How many of them a round does.
        goals: What is to be reached.
        lanes: Starts what the lanes need, gives them in the order of the table, and ends it.
        warm_up: How many units each lane does before the first round.
        environments: What must be installed before.
        lanes_to_try: The same for ``--quick``, where it would take long to start them.
    """

    name: str
    title: str
    unit: str
    units: int
    goals: tuple[Goal, ...]
    lanes: Callable[[], AbstractContextManager[Sequence[Lane]]]
    warm_up: int = 500
    environments: tuple[Environment, ...] = (OURS, PEERS)
    lanes_to_try: Callable[[], AbstractContextManager[Sequence[Lane]]] | None = None
