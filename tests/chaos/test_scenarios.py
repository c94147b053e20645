"""Every scenario in its short size; `make chaos SIZE=full` has the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.scenarios import SCENARIOS, Scenario


@pytest.mark.parametrize("scenario", list(SCENARIOS), ids=lambda one: one.id)
def test_nothing_is_lost_and_nothing_happens_twice(
    scenario: Scenario, play_short: Callable[[Scenario], None]
) -> None:
    play_short(scenario)
