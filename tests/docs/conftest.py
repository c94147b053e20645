"""What a page shows is run as a process would run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mainstay.resources.sqlalchemy.migrate import upgrade


@pytest.fixture
def eager_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a database; the environment says that tasks are done where they are sent."""
    url = f"sqlite:///{tmp_path}/service.db"
    upgrade(url, say=lambda _line: None)
    for name, value in {
        "APP_ENV": "test",
        "DATABASE_URL": url,
        "CELERY_BROKER_URL": "memory://",
        "CELERY_TASK_ALWAYS_EAGER": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return url
