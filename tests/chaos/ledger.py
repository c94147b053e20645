"""Is every accepted piece of work done or dead, and none of it twice?

Each unit of work has an id that its client makes. Four logs are written independently of the code
under test, and only ever appended to: what was submitted and what came of that (files of the
client), the effects (rows of a table that has no unique constraint, so that doubles are seen), and
the dead letters. The verdict is an identity, in the manner of Jepsen's tests of RabbitMQ:

    accepted = done + dead        unknown = done + dead + never stored
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from mainstay.errors import MainstayError, NoRoute, NotConnected, Overloaded, TooLarge

__all__ = ["Books", "Execution", "Ledger", "Outcome", "balance", "told_by", "units_in"]

Outcome = Literal["accepted", "refused", "unknown"]

# What refuses before anything is stored.
_REFUSALS = (NotConnected, NoRoute, Overloaded, TooLarge)
_UNIT = re.compile(r"unit-[0-9a-f]+-\d+")


def units_in(text: str) -> list[str]:
    """Return the ids of units that *text* names."""
    return _UNIT.findall(text)


@dataclass(frozen=True, slots=True)
class Books:
    """What became of the units of one run.

    Args:
        accepted: The client was told that it will be done.
        refused: The client was told that it will not.
        unknown: The client was told neither.
        done: Units with an effect.
        dead: Units with a dead letter.
        lost: Accepted, and neither done nor dead.
        double: Effects beyond the first of their unit.
        both: Done and dead.
        phantom: Done or dead, but refused or never submitted.
        stored: Unknown to the client, and done or dead.
        redone: Executions beyond the first of their unit: what the inbox took upon itself.
        wrong: Units that are lost, double, both or phantom.
    """

    accepted: int
    refused: int
    unknown: int
    done: int
    dead: int
    lost: int
    double: int
    both: int
    phantom: int
    stored: int
    redone: int
    wrong: frozenset[str]

    @property
    def is_balanced(self) -> bool:
        """Is nothing lost, nothing done twice, and nothing there that nobody asked for?"""
        return not (self.lost or self.double or self.both or self.phantom) and (
            self.accepted + self.stored == self.done + self.dead
        )

    def __str__(self) -> str:
        counts = (field.name for field in fields(self) if field.name != "wrong")
        return " ".join(f"{name}={getattr(self, name)}" for name in counts)


@dataclass(frozen=True, slots=True)
class Execution:
    """One time that a unit was begun: by which process, and when (seconds since the epoch)."""

    unit: str
    pid: int
    at: float


def told_by(error: MainstayError) -> Outcome:
    """Return what a client knows that has sent work and heard *error*."""
    return "refused" if isinstance(error, _REFUSALS) else "unknown"


def balance(
    outcomes: Mapping[str, Outcome],
    effects: Mapping[str, int],
    dead: Iterable[str],
    executions: Mapping[str, int],
) -> Books:
    """Draw up the books.

    Args:
        outcomes: Of each unit that was submitted.
        effects: How many each unit has.
        dead: The units that have a dead letter.
        executions: How often each unit was begun.
    """
    buried = set(dead)
    done = {unit for unit, count in effects.items() if count}
    ended = done | buried
    told: dict[Outcome, set[str]] = {"accepted": set(), "refused": set(), "unknown": set()}
    for unit, outcome in outcomes.items():
        told[outcome].add(unit)
    lost, both = told["accepted"] - ended, buried & done
    phantom = ended - told["accepted"] - told["unknown"]
    double = {unit: count - 1 for unit, count in effects.items() if count > 1}
    return Books(
        accepted=len(told["accepted"]),
        refused=len(told["refused"]),
        unknown=len(told["unknown"]),
        done=len(done),
        dead=len(buried),
        lost=len(lost),
        double=sum(double.values()),
        both=len(both),
        phantom=len(phantom),
        stored=len(ended & told["unknown"]),
        redone=sum(count - 1 for count in executions.values() if count > 1),
        wrong=frozenset(lost | both | phantom | double.keys()),
    )


class Ledger:
    """The logs that clients and handlers write, in *folder*.

    Args:
        folder: Shared by all of them.
        seed: The middle of the units' ids.
        first: The end of the first one; clients of one folder must not meet.
    """

    def __init__(self, folder: Path, seed: int, *, first: int = 1) -> None:
        self._folder = folder
        self._seed = seed
        self._made = first - 1
        self._begun: set[str] = set()
        self._not_begun: set[str] = set()
        self._read_to = 0
        self._lock = threading.Lock()
        for name in ("submitted", "outcomes", "executions"):
            (folder / name).touch()
        self._submitted = _Log(folder / "submitted")
        self._outcomes = _Log(folder / "outcomes")

    @property
    def executions_file(self) -> Path:
        """Where handlers write the unit that they begin, their pid and the time, a line each."""
        return self._folder / "executions"

    def submit(self) -> str:
        """Return the id of a new unit, and write it down."""
        with self._lock:
            self._made += 1
            unit = f"unit-{self._seed:x}-{self._made}"
        self._submitted.append(unit)
        return unit

    def settle(self, unit: str, outcome: Outcome) -> None:
        """Write down what the client was told; the last word counts."""
        self._outcomes.append(f"{unit} {outcome} {time.time():.3f}")
        if outcome == "accepted":
            with self._lock:
                self._not_begun |= {unit} - self._begun

    @property
    def accepted(self) -> int:
        """How many units have been accepted so far."""
        return sum(outcome == "accepted" for outcome in self.outcomes().values())

    def outcomes(self) -> dict[str, Outcome]:
        """Return what the client was told of each unit: nothing, where no answer came."""
        found: dict[str, Outcome] = dict.fromkeys(self._submitted.lines(), "unknown")
        for line in self._outcomes.lines():
            unit, outcome, _at = line.split()
            found[unit] = _outcome(outcome)
        return found

    def told(self, unit: str) -> Sequence[tuple[Outcome, float]]:
        """Return what the client was told of one unit, and when (seconds since the epoch)."""
        lines = (line.split() for line in self._outcomes.lines() if line.startswith(f"{unit} "))
        return [(_outcome(outcome), float(at)) for _unit, outcome, at in lines]

    def executions(self) -> Mapping[str, int]:
        """Return how often each unit was begun."""
        return Counter(execution.unit for execution in self.begun())

    def not_begun(self) -> int:
        """Return how many units were accepted that nobody has begun yet; cheap, so ask often."""
        with self._lock, self.executions_file.open() as file:
            file.seek(self._read_to)
            units = {line.partition(" ")[0] for line in file}
            self._read_to = file.tell()
            self._begun |= units
            self._not_begun -= units
            return len(self._not_begun)

    def begun(self) -> Sequence[Execution]:
        """Return each time that a unit was begun, in order."""
        lines = (line.split() for line in self.executions_file.read_text().splitlines())
        found = [Execution(unit, int(pid), float(at)) for unit, pid, at in lines]
        return sorted(found, key=lambda one: one.at)


class _Log:
    """Lines that threads and processes append, each in one write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def append(self, line: str) -> None:
        os.write(self._file, line.encode() + b"\n")

    def lines(self) -> Sequence[str]:
        return self._path.read_text().splitlines()


def _outcome(word: str) -> Outcome:
    outcomes: dict[str, Outcome] = {
        "accepted": "accepted",
        "refused": "refused",
        "unknown": "unknown",
    }
    return outcomes[word]
