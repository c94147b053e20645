"""A dozen short scenarios whose faults do not depend on time; `make chaos` runs all of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.scenarios import SCENARIOS, Scenario

DETERMINISTIC = (
    "06-rabbitmq-tasks_fail_for_good",
    "06-redis-tasks_fail_for_good",
    "07-redis-tasks_fail_in_passing",
    "11-rabbitmq-messages_are_strange",
    "11-redis-messages_are_strange",
    "20-rabbitmq-a_queue_is_full",
    "21-rabbitmq-a_queue_is_deleted",
    "33-redis-processes_die_at_each_moment",
    "33-redis-processes_die_at_each_moment_with_keys_on_redis",
    "34-redis-one_key_is_used_for_other_things",
    "36-redis-the_first_answer_was_an_error",
    "44-redis-requests_can_be_read_in_two_ways",
)


def scenario_of(id: str) -> Scenario:
    (found,) = (one for one in SCENARIOS if one.id == id)
    return found


@pytest.mark.parametrize("id", DETERMINISTIC)
def test_nothing_is_lost_and_nothing_happens_twice(
    id: str, play_short: Callable[[Scenario], None]
) -> None:
    play_short(scenario_of(id))
