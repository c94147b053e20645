"""Which processes that tests start are measured for coverage?

Only those that ask for it. To be measured costs a process a third of a second, a test run starts
some seven hundred, and most of them are killed, which leaves no figures.
"""

from __future__ import annotations

import os

__all__ = ["hold_back", "variables"]

_held_back: dict[str, str] = {}


def hold_back() -> None:
    """Keep what has a new process measured out of the environment that processes inherit."""
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        _held_back[name] = os.environ.pop(name)


def variables() -> dict[str, str]:
    """Return the variables that have a new process measured; none where nothing is measured."""
    return dict(_held_back)
