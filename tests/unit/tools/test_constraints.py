"""When constraints.txt no longer is what pyproject.toml asks for."""

from __future__ import annotations

from tools.constraints import disagreements

PYPROJECT = """
[project]
name = "orders"
dependencies = ["redis>=6"]
[project.optional-dependencies]
web = ["FastAPI>=0.118"]
all = ["orders[web]"]
[dependency-groups]
dev = ["pytest>=8 ; python_version < '4'"]
"""


def test_pins_that_fit_are_left_alone() -> None:
    pins = "redis==6.1\nfastapi==0.118.0\npytest==9.0 ; python_full_version < '3.15'\n"
    assert disagreements(pins, PYPROJECT) == []


def test_each_disagreement_is_named() -> None:
    pins = "redis==5.0\nfastapi>=0.118\n"
    assert disagreements(pins, PYPROJECT) == [
        "'fastapi>=0.118' is not a name with an exact version",
        "redis 5.0 is not what pyproject.toml allows: redis>=6",
        "pytest is not pinned",
    ]


def test_an_address_is_not_a_version() -> None:
    wrong = disagreements("redis @ https://example.com/redis.whl\n", PYPROJECT)
    assert "is not a name with an exact version" in wrong[0]
