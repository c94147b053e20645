"""A task that waits in the outbox is published as it is when it is sent at once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import scoped_session, sessionmaker

from mainstay import Service, Settings, context
from mainstay.resources.sqlalchemy import Database, migrate
from mainstay.resources.sqlalchemy.outbox import Outbox
from mainstay.resources.sqlalchemy.relay import Relays
from mainstay.tasks.celery import App, create_celery_app
from mainstay.testing.wait import eventually


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    url = f"sqlite:///{tmp_path}/test.db"
    migrate.upgrade(url, say=lambda _line: None)
    settings = Settings(env="test", database_url=url, celery_broker_url="memory://")
    made = create_celery_app(Service(settings, Database()))
    yield made
    made.service.stop()


def taken(app: App, queue: str = "default") -> dict[str, Any]:
    """Take the one message of a queue, without what is the message's own."""
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        message: Any = eventually(lambda: channel.basic_get(queue, no_ack=True))
    headers = dict(message.headers)
    own = {name: headers.pop(name) for name in ("id", "root_id", "x-mainstay-sent-at")}
    assert own["x-mainstay-sent-at"]
    properties = dict(message.properties)
    assert properties.pop("correlation_id") == own["id"]
    del properties["delivery_tag"], properties["reply_to"]
    return {
        "headers": headers,
        "properties": properties,
        "body": message.body,
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"args": (1, "ü", datetime(2026, 1, 1, tzinfo=UTC)), "kwargs": {"b": [None]}},
        {"headers": {"x-own": "text"}, "priority": 3, "time_limit": 7},
        {"queue": "other", "compression": "zlib"},
        {"link": {"task": "then", "args": (1,), "kwargs": {}, "options": {}, "immutable": False}},
    ],
)
def test_nothing_is_lost_on_the_way_through_the_outbox(app: App, options: dict[str, Any]) -> None:
    database = app.service.resource(Database)
    queue = options.get("queue", "default")
    relays = Relays(app.service)
    relays.start()
    with context.use(context.Context.new()):
        app.send_task("add", **options)
        at_once = taken(app, queue)
        with database.session() as session:
            app.send_task("add", session=session, **options)
    assert taken(app, queue) == at_once
    relays.close()


def test_a_session_of_a_registry_will_do(app: App) -> None:
    database = app.service.resource(Database)
    registry = scoped_session(sessionmaker(database.engine))
    app.send_task("add", session=registry)
    assert app.service.resource(Outbox).backlog("task").ready == 0
    registry.commit()
    registry.remove()
    assert app.service.resource(Outbox).backlog("task").ready == 1
