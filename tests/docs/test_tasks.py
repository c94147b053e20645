"""What the page on tasks shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from mainstay.resources.sqlalchemy import Database
from mainstay.resources.sqlalchemy.migrate import upgrade

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "tasks.md"


def test_the_fenced_task_does_each_of_its_steps_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/billing.db"
    upgrade(url, say=lambda _line: None)
    database = Database(url=url)
    with database.session() as session:
        for table in ("charges", "letters"):
            session.execute(text(f"create table {table} (name varchar(32))"))
    for name, value in {
        "APP_ENV": "test",
        "DATABASE_URL": url,
        "CELERY_BROKER_URL": "memory://",
        "CELERY_TASK_ALWAYS_EAGER": "1",
    }.items():
        monkeypatch.setenv(name, value)
    (shown,) = re.findall(r"(?ms)^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"))
    billing = SimpleNamespace()
    exec(shown, vars(billing))  # noqa: S102 - our own page
    for _ in range(2):
        billing.bill.apply_async(("Ann",), task_id="one")
    with database.session(read_only=True) as session:
        for table in ("charges", "letters"):
            found = session.scalars(text(f"select name from {table}"))  # noqa: S608 - named above
            assert list(found) == ["Ann"]
    billing.service.lifecycle.stop()
    database.close()
