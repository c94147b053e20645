"""What is said about settings that do not fit: one message that names all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mainstay.errors import Misconfigured

__all__ = ["Problem", "did_you_mean", "misconfigured"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the settings.

    Args:
        subject: The settings it is about, or the file.
        message: Where it was read, what is wrong and what is accepted; never a secret's value.
        settings: The names of the settings it is about; empty for a file.
    """

    subject: str
    message: str
    settings: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}"


def misconfigured(problems: Iterable[Problem]) -> Misconfigured:
    """Return the one error that names every problem, each once and on a line of its own."""
    lines = list(dict.fromkeys(str(problem) for problem in problems))
    if len(lines) == 1:
        return Misconfigured(f"bad configuration: {lines[0]}")
    return Misconfigured("\n  ".join([f"bad configuration, {len(lines)} problems:", *lines]))


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return ``"; did you mean 'port'?"`` for a word close to one of *words*, else nothing."""
    from difflib import get_close_matches  # only who is mistaken waits for it

    known = {one.lower(): one for one in words}
    close = get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return f"; did you mean {known[close[0]]!r}?" if close else ""
