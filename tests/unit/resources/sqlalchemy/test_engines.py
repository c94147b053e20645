from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.engine import make_url

from mainstay.resources.sqlalchemy.engines import Limits, _connect_args

LIMITS = Limits(
    statement_timeout=1.5, lock_timeout=0.25, idle_in_transaction_timeout=60, application_name="a/1"
)
SERVER = {
    "statement_timeout": "1500",
    "lock_timeout": "250",
    "idle_in_transaction_session_timeout": "60000",
    "timezone": "UTC",
}


def args(url: str) -> dict[str, Any]:
    return _connect_args(make_url(url), LIMITS)


def test_psycopg_is_told_every_time_limit() -> None:
    found = args("postgresql+psycopg://db/orders")
    assert found["application_name"] == "a/1"
    assert found["connect_timeout"] == 2
    assert found["options"] == " ".join(f"-c {name}={value}" for name, value in SERVER.items())


def test_what_the_url_says_comes_last_and_wins() -> None:
    found = args("postgresql+psycopg://db/orders?options=-c%20lock_timeout%3D9")
    assert found["options"].endswith("-c lock_timeout=9")


def test_asyncpg_is_told_every_time_limit() -> None:
    found = args("postgresql+asyncpg://db/orders")
    assert found["server_settings"] == {"application_name": "a/1", **SERVER}
    assert found["timeout"] == 2.0
    assert found["command_timeout"] == 2.5


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a_user_called_as_our_schema_is_keeps_its_tables_out_of_it(driver: str) -> None:
    assert "search_path" in str(args(f"postgresql+{driver}://mainstay:pw@db/orders"))
    assert "search_path" not in str(args(f"postgresql+{driver}://orders:pw@db/orders"))
