"""Every service twice: on embedded servers, and on real ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.services.platform import Platform
from tests.waiting import PATIENCE_SECONDS


@pytest.fixture(params=["embedded", "real"])
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    found: Platform = request.getfixturevalue(f"{request.param}_platform")
    before = len(found.output)
    yield found
    sys.stdout.write(found.output[before:][-20_000:])  # shown where the test fails


@pytest.fixture
def client(platform: Platform) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=platform.url, headers=platform.headers, timeout=PATIENCE_SECONDS
    ) as client:
        yield client
