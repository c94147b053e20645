from __future__ import annotations

import pytest

from mainstay import Service, Settings


@pytest.fixture
def service() -> Service:
    return Service(Settings(env="test", service_name="orders"))
