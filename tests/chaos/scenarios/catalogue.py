"""Which scenarios are there? Each module of this folder enters its own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.stage import Broker, Stage

__all__ = ["SCENARIOS", "LeftOut", "Scenario", "scenario"]

Play = Callable[[Stage], None]


class LeftOut(Exception):
    """The scenario cannot be played here; says why."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One of them, on one broker.

    Args:
        number: In the catalogue of the reliability documentation.
        title: What is done to what.
        broker: Which broker carries tasks and calls.
        play: What happens.
        keeps_books: Are there units to account for? A scenario about refusals has none.
    """

    number: int
    title: str
    broker: Broker
    play: Play
    keeps_books: bool = True

    @property
    def id(self) -> str:
        return f"{self.number:02d}-{self.broker}-{self.play.__name__}"


_found: list[Scenario] = []


def scenario(
    number: int,
    title: str,
    *,
    on: tuple[Broker, ...] = ("rabbitmq", "redis"),
    keeps_books: bool = True,
) -> Callable[[Play], Play]:
    """Enter the decorated function as scenario *number*, once for each broker."""

    def enter(play: Play) -> Play:
        _found.extend(Scenario(number, title, broker, play, keeps_books) for broker in on)
        return play

    return enter


def _load() -> Iterator[Scenario]:
    for module in sorted(Path(__file__).parent.glob("*.py")):
        if module.stem not in ("__init__", Path(__file__).stem):
            importlib.import_module(f"tests.chaos.scenarios.{module.stem}")
    yield from sorted(_found, key=lambda one: one.id)


class _Scenarios:
    """All of them, found when first asked for: the modules import this one."""

    def __iter__(self) -> Iterator[Scenario]:
        if not _found:
            return _load()
        return iter(sorted(_found, key=lambda one: one.id))


SCENARIOS = _Scenarios()
