"""How is one scenario played, from an empty folder to its line?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.ledger import Books
from tests.chaos.scenarios import Scenario
from tests.chaos.stage import Servers, Size, Stage

__all__ = ["Result", "play"]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one scenario."""

    scenario: Scenario
    seed: int
    books: Books
    faults: dict[str, int]
    reasons: dict[str, int]
    figures: dict[str, float]
    crashes: int

    @property
    def is_good(self) -> bool:
        is_balanced = self.books.is_balanced or not self.scenario.keeps_books
        return is_balanced and not self.crashes

    def __str__(self) -> str:
        books = f"{self.books} " if self.scenario.keeps_books else ""
        faults = _listed(self.faults) or "no fault"
        reasons = f" | dead: {_listed(self.reasons)}" if self.reasons else ""
        figures = "".join(f" {name}={value:g}" for name, value in sorted(self.figures.items()))
        return (
            f"{'ok  ' if self.is_good else 'BAD '} {self.scenario.number:3d} "
            f"{self.scenario.broker:8s} seed={self.seed} {books}exits={self.crashes}"
            f"{figures} | {self.scenario.title} | {faults}{reasons}"
        )


def play(
    scenario: Scenario,
    servers: Servers,
    folder: Path,
    *,
    seed: int,
    size: Size,
    say: Callable[[str], object] = print,
) -> Result:
    """Play *scenario* in an empty *folder* and draw up its books."""
    with Stage(folder, servers, scenario.broker, seed=seed, size=size, say=say) as stage:
        try:
            scenario.play(stage)
            if scenario.keeps_books:
                stage.settle()
        except Exception:
            for line in (*stage.crash_reports(), *stage.last_words()):
                say(line)
            raise
        books = stage.books()
        for line in stage.evidence(books) if scenario.keeps_books else stage.crash_reports():
            say(line)
        return Result(
            scenario,
            seed,
            books,
            dict(stage.faults),
            dict(stage.reasons),
            stage.figures,
            stage.crashes,
        )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
