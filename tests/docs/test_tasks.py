"""What the page on tasks shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

from sqlalchemy import text

from mainstay.resources.sqlalchemy import Database
from mainstay.tasks.celery import create_celery_app
from mainstay.tasks.celery.profiles import refusals

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "tasks.md"
FENCED, QUEUES = re.findall(r"(?ms)^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"))


def test_the_fenced_task_does_each_of_its_steps_once(eager_database: str) -> None:
    database = Database(url=eager_database)
    with database.session() as session:
        for table in ("charges", "letters"):
            session.execute(text(f"create table {table} (name varchar(32))"))
    billing = SimpleNamespace()
    exec(FENCED, vars(billing))  # noqa: S102 - our own page
    for _ in range(2):
        billing.bill.apply_async(("Ann",), task_id="one")
    with database.session(read_only=True) as session:
        for table in ("charges", "letters"):
            found = session.scalars(text(f"select name from {table}"))  # noqa: S608 - named above
            assert list(found) == ["Ann"]
    billing.service.lifecycle.stop()
    database.close()


def test_the_queues_of_the_settings_are_declared() -> None:
    shown = SimpleNamespace(__name__="contracts.settings")
    exec(QUEUES, vars(shown))  # noqa: S102 - our own page
    app = create_celery_app(shown.Settings(env="test", celery_broker_url="amqp://h"))
    assert [queue.name for queue in app.conf.task_queues] == ["contracts", "urgent"]
    assert app.conf.task_default_queue == "contracts"
    assert refusals(app.conf, app.task_queues) == []
