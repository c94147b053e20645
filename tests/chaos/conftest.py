"""Servers for the scenarios."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mainstay.testing import PostgreSQL, RabbitMQ, Redis
from tests.chaos.playing import play
from tests.chaos.scenarios import LeftOut, Scenario
from tests.chaos.stage import DURABLE, Servers
from tests.conftest import RECONCILIATION


@pytest.fixture(scope="session")
def seed() -> int:
    """The same in each run, so that no result depends on chance; `make chaos` draws another."""
    return int(os.environ.get("SEED") or 20261120)


@pytest.fixture(scope="session")
def servers(
    rabbitmq: RabbitMQ,
    redis_server: Redis,  # skips the tests where Redis is not installed
    postgres: PostgreSQL,
) -> Iterator[Servers]:
    with Redis(config=DURABLE) as redis:
        yield Servers(postgres, rabbitmq, redis)


@pytest.fixture
def play_short(
    servers: Servers,
    tmp_path: Path,
    seed: int,
    record_property: Callable[[str, object], None],
) -> Callable[[Scenario], None]:
    """Play a scenario in its short size and look at its books."""

    def play_one(scenario: Scenario) -> None:
        try:
            result = play(scenario, servers, tmp_path, seed=seed, size="short")
        except LeftOut as reason:
            pytest.skip(str(reason))
        except Exception as error:
            said = (str(error).splitlines() or [""])[0]
            record_property(
                RECONCILIATION, f"FAIL {scenario.id} seed={seed}: {type(error).__name__}: {said}"
            )
            raise
        record_property(RECONCILIATION, str(result))
        assert result.is_good, str(result)

    return play_one
