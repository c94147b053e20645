"""Every scenario of requests, their database and their processes, in its short size."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.scenarios import OF_REQUESTS, SCENARIOS, Scenario


@pytest.mark.parametrize(
    "scenario",
    [one for one in SCENARIOS if one.area in OF_REQUESTS],
    ids=lambda one: one.id,
)
def test_nothing_is_lost_and_nothing_happens_twice(
    scenario: Scenario, play_short: Callable[[Scenario], None]
) -> None:
    play_short(scenario)
