"""How long after a death is what it interrupted begun again?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mainstay.processes import facts
from tests.chaos.ledger import Execution
from tests.chaos.waiting import until

__all__ = ["Death", "interrupted", "percentiles", "restarts", "until_gone"]


@dataclass(frozen=True, slots=True)
class Death:
    """One process that was killed, and when (seconds since the epoch)."""

    pid: int
    at: float


def interrupted(executions: Sequence[Execution], deaths: Iterable[Death]) -> Iterator[Execution]:
    """Return what each of the dead had begun last; some of them had finished it."""
    for death in deaths:
        by_it = [one for one in executions if one.pid == death.pid and one.at <= death.at]
        if by_it:
            yield by_it[-1]


def restarts(executions: Sequence[Execution], deaths: Sequence[Death]) -> list[float]:
    """Return how many seconds after each death its unit was begun again, where it was."""
    by_unit = sorted(executions, key=lambda each: (each.unit, each.at))
    again = {one: later for one, later in pairwise(by_unit) if one.unit == later.unit}
    return [
        again[one].at - death.at
        for death in deaths
        for one in interrupted(executions, [death])
        if one in again
    ]


def until_gone(pids: Sequence[int]) -> None:
    """Wait until none of these processes is there any more."""
    until(lambda: not any(map(_is_there, pids)))


def percentiles(name: str, seconds: Iterable[float]) -> dict[str, float]:
    """Return the figures that tell of *seconds*: the median, the 99th of 100, and how many."""
    ordered = sorted(seconds)
    if not ordered:
        return {f"{name}_count": 0.0}
    at = {share: ordered[min(int(share * len(ordered)), len(ordered) - 1)] for share in (0.5, 0.99)}
    return {
        f"{name}_count": float(len(ordered)),
        f"{name}_p50_seconds": round(at[0.5], 3),
        f"{name}_p99_seconds": round(at[0.99], 3),
    }


def _is_there(pid: int) -> bool:
    # Who has ended and was not asked for the exit code is not there either.
    return facts.is_alive(pid) and not facts.is_zombie(pid)
