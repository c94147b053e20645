"""What a broker has lost is sent again from what the service's database keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from typer.testing import CliRunner, Result

from mainstay import Service
from mainstay.cli.tasks import app as command
from mainstay.config import Settings
from mainstay.context import PRINCIPAL_TOKEN
from mainstay.errors import Conflict, NotFound
from mainstay.resources.redis.client import connect
from mainstay.resources.sqlalchemy import Database, tables
from mainstay.resources.sqlalchemy.migrate import upgrade
from mainstay.resources.sqlalchemy.outbox import Outbox
from mainstay.resources.sqlalchemy.relay import Relays
from mainstay.tasks.celery import App, create_celery_app
from mainstay.tasks.celery.workflows import AGAIN
from mainstay.tasks.status import State, TaskStatus
from mainstay.testing import eventually


@pytest.fixture(params=["sqlite", "postgresql"])
def app(
    request: pytest.FixtureRequest,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[App]:
    url = f"sqlite:///{tmp_path}/test.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("database_url")
    upgrade(url, say=lambda _line: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APP_ENV", "test")
    monkeypatch.setenv("CELERY_BROKER_URL", redis_url)
    monkeypatch.setenv("DATABASE_URL", url)
    settings = Settings(env="test", celery_broker_url=redis_url, database_url=url)
    made = create_celery_app(Service(settings, Database()))
    yield made
    made.service.stop()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def messages(app: App, queue: str = "default") -> list[Any]:
    client = connect(str(app.conf.broker_url))
    found: Any = client.lrange(queue, 0, -1)
    client.close()
    return [json.loads(item) for item in found]


def lose(app: App, *ids: str) -> None:
    """Have the broker lose everything, and the tasks found lost."""
    client = connect(str(app.conf.broker_url))
    client.flushall()
    client.close()
    database = app.database
    status = tables.table("task_status", database.engine.dialect.name)
    with database.session() as session:
        session.execute(update(status).where(status.c.task_id.in_(ids)).values(state="lost"))


def state_of(app: App, id: str) -> State:
    status = app.status(id)
    assert status is not None
    return status.state


def relay(app: App, *, until: int) -> None:
    relays = Relays(app.service)
    relays.start()
    eventually(lambda: len(messages(app)) >= until)
    relays.close()


def send_with_commit(app: App, *args: object) -> str:
    with app.database.session() as session:
        return str(app.send_task("add", args, session=session).id)


def test_a_lost_task_is_sent_again_as_it_was(app: App) -> None:
    options: dict[str, Any] = {"priority": 3, "time_limit": 7, "headers": {"x-own": "text"}}
    id = app.send_task("add", (1, "ü"), {"b": [None]}, **options).id
    (sent,) = messages(app)
    lose(app, id)

    result = run("retry", id)
    assert result.exit_code == 0, result.output
    assert state_of(app, id) is State.WAITING
    relay(app, until=1)
    (again,) = messages(app)
    assert again["headers"].pop(AGAIN) == "0"
    assert again["body"] == sent["body"]
    for each in (sent, again):
        each["headers"] = {
            name: value
            for name, value in each["headers"].items()
            if value is not None and name != "x-mainstay-sent-at"
        }
        for own in ("delivery_tag", "reply_to"):  # of each delivery; and nobody waits for replies
            each["properties"].pop(own, None)
    assert again == sent
    assert isinstance(run("retry", id).exception, Conflict)


def test_what_left_with_a_commit_is_sent_again_from_the_outbox(app: App) -> None:
    id = send_with_commit(app, 1, 2)
    relay(app, until=1)
    lose(app, id)
    assert run("retry", id).exit_code == 0
    relay(app, until=1)
    assert [each["headers"]["id"] for each in messages(app)] == [id]


def test_all_lost_tasks_are_sent_again_and_no_others(app: App) -> None:
    direct = [app.send_task("add", (number, 0)).id for number in range(3)]
    committed = [send_with_commit(app, number, 1) for number in range(3)]
    relay(app, until=6)
    lose(app, *direct, *committed)
    untouched = app.send_task("add", (9, 9)).id

    result = run("retry", "--all-lost")
    assert result.exit_code == 0, result.output
    assert "6 lost tasks wait again" in result.output
    relay(app, until=7)
    found = [each["headers"]["id"] for each in messages(app)]
    assert sorted(found) == sorted([untouched, *direct, *committed])
    assert "no lost task" in run("retry", "--all-lost").output
    assert run("retry").exit_code == run("retry", untouched, "--all-lost").exit_code == 2


def test_of_what_nothing_is_kept_one_hears_and_the_others_are_sent(app: App) -> None:
    kept, gone = (app.send_task("add", (number, 0)).id for number in range(2))
    lose(app, kept, gone)
    status = tables.table("task_status", app.database.engine.dialect.name)
    with app.database.session() as session:
        session.execute(update(status).where(status.c.task_id == gone).values(message=None))
    result = run("retry", "--all-lost")
    assert isinstance(result.exception, NotFound)
    assert gone in str(result.exception)
    assert [state_of(app, id) for id in (kept, gone)] == [State.WAITING, State.LOST]
    assert run("revoke", gone).exit_code == 0
    assert state_of(app, gone) is State.REVOKED


def test_a_task_that_had_to_wait_is_sent_again_to_its_queue(app: App) -> None:
    id = app.send_task("add", (1, 2), countdown=5, expires=60).id
    lose(app, id)
    assert run("retry", id).exit_code == 0
    relay(app, until=1)
    (again,) = messages(app)
    assert "expires" not in again["headers"]  # a life of its own


def test_what_sends_a_task_again_is_kept_until_it_has_ended_and_without_its_token(
    app: App,
) -> None:
    id = app.send_task("add", (1, 2), headers={PRINCIPAL_TOKEN: "secret-token"}).id
    status = tables.table("task_status", app.database.engine.dialect.name)
    query = select(status.c.message).where(status.c.task_id == id)
    with app.database.session() as session:
        kept = session.execute(query).scalar_one()
    assert json.loads(kept)["name"] == "add"
    assert "secret-token" not in kept
    store = app.reports.store
    assert store is not None
    store.record(TaskStatus(id=id, state=State.STARTED, attempts=1))
    store.record(TaskStatus(id=id, state=State.SUCCESS, attempts=1))
    with app.database.session() as session:
        assert session.execute(query).scalar_one() is None


@pytest.mark.parametrize(
    "word",
    [
        TaskStatus(id="", state=State.STARTED, attempts=1),
        TaskStatus(id="", state=State.PROGRESS, attempts=1, meta={"current": 1}),
        TaskStatus(id="", state=State.RETRYING, attempts=1),
        TaskStatus(id="", state=State.SUCCESS, attempts=1),
        TaskStatus(id="", state=State.FAILURE, error={"type": "ValueError", "detail": ""}),
        TaskStatus(id="", state=State.REVOKED),
        TaskStatus(id="", state=State.WAITING),
    ],
    ids=lambda word: word.state,
)
def test_any_later_word_on_it_shows_that_a_task_is_not_lost(app: App, word: TaskStatus) -> None:
    id = app.send_task("add", (1, 2)).id
    store = app.reports.store
    assert store is not None
    store.record(TaskStatus(id=id, state=State.STARTED, attempts=1))
    lose(app, id)
    assert store.record(replace(word, id=id))
    assert state_of(app, id) is word.state


def test_what_sends_a_task_again_outlives_the_retention_of_the_outbox(app: App) -> None:
    id = send_with_commit(app, 1, 2)
    relay(app, until=1)
    outbox = app.service.resource(Outbox)
    assert outbox.purge(older_than_seconds=-60) == 0
    lose(app, id)
    assert outbox.purge(older_than_seconds=-60) == 0
    assert run("retry", id).exit_code == 0
    assert run("revoke", id).exit_code == 0
    relay(app, until=1)
    eventually(lambda: outbox.purge(older_than_seconds=-60) == 2)


@pytest.mark.parametrize("is_told_first", [True, False])
def test_a_task_that_is_tried_again_later_is_accounted_for_until_then(
    app: App, is_told_first: bool
) -> None:
    id = app.send_task("add", (1, 2)).id
    store = app.reports.store
    assert store is not None
    store.record(TaskStatus(id=id, state=State.STARTED, attempts=1))
    if is_told_first:
        store.record(TaskStatus(id=id, state=State.RETRYING, attempts=1))
    app.send_task("add", (1, 2), task_id=id, retries=1, countdown=500)
    if not is_told_first:
        store.record(TaskStatus(id=id, state=State.RETRYING, attempts=1))
    status = tables.table("task_status", app.database.engine.dialect.name)
    with app.database.session() as session:
        row = session.execute(select(status).where(status.c.task_id == id)).one()
    assert (row.accounted_at - row.updated_at).total_seconds() > 400


def test_health_is_degraded_and_says_what_to_do(app: App) -> None:
    id = app.send_task("add", (1, 2)).id
    assert app.service.health.health().status == "healthy"
    lose(app, id)

    def is_told() -> bool:
        report = app.service.health.health()
        check = report.checks["lost"]
        return (
            report.status == "degraded"
            and check["tasks"] == 1
            and "mainstay tasks retry --all-lost" in str(check["detail"])
        )

    eventually(is_told)
    assert run("retry", "--all-lost").exit_code == 0
    eventually(lambda: app.service.health.health().status == "healthy")
