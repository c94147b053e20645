"""Which faults must the service survive, and what must its books say afterwards?

A scenario is a function that plays on a `Stage`: it sends work, does its worst meanwhile, asserts
what a user could see, and waits until everything has settled. The books are drawn up for it.
"""

from __future__ import annotations

from tests.chaos.scenarios.catalogue import SCENARIOS, LeftOut, Scenario

__all__ = ["SCENARIOS", "LeftOut", "Scenario"]
