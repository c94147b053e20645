"""What waits in the outbox, and what died there, as the command shows it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mainstay import Service, Settings
from mainstay.cli import db, dead, tasks
from mainstay.resources.sqlalchemy import Database, migrate
from mainstay.resources.sqlalchemy.outbox import Outbox
from mainstay.resources.sqlalchemy.relay import Relays
from mainstay.tasks.celery import App, create_celery_app
from mainstay.tasks.status import State, TaskStatus
from mainstay.testing.wait import eventually


@pytest.fixture
def sender(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    url = f"sqlite:///{tmp_path}/test.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APP_ENV", "test")
    monkeypatch.setenv("CELERY_BROKER_URL", redis_url)
    monkeypatch.setenv("DATABASE_URL", url)
    migrate.upgrade(url, say=lambda _line: None)
    settings = Settings(env="test", celery_broker_url=redis_url, database_url=url)
    app = create_celery_app(Service(settings, Database()))
    yield app
    app.service.stop()


def run(command: Any, *arguments: str) -> str:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def send(app: App, name: str, **options: Any) -> str:
    with app.service.resource(Database).session() as session:
        return str(app.send_task(name, (1, 2), session=session, **options).id)


def relay_all(app: App) -> None:
    relays = Relays(app.service)
    relays.start()
    eventually(lambda: app.service.resource(Outbox).backlog("task").ready == 0)
    relays.close()


def test_a_task_in_the_outbox_is_waiting(sender: App) -> None:
    id = send(sender, "add")
    (listed,) = json.loads(run(tasks.app, "ls", "--json"))["tasks"]
    assert (listed["id"], listed["name"], listed["state"]) == (id, "add", "waiting")
    assert json.loads(run(tasks.app, "show", id, "--json"))["queue"] == "default"


def test_a_task_that_is_called_off_before_it_is_due_never_leaves(sender: App) -> None:
    id = send(sender, "add", countdown=3600)
    outbox = sender.service.resource(Outbox)
    assert outbox.backlog("task").scheduled == 1
    run(tasks.app, "revoke", id)
    assert outbox.backlog("task").scheduled == 0
    assert json.loads(run(tasks.app, "show", id, "--json"))["state"] == "revoked"


def test_what_no_broker_took_is_among_the_dead_letters_and_can_be_sent_again(sender: App) -> None:
    # An exchange that nothing is bound to.
    id = send(sender, "add", exchange="nobody", routing_key="nobody", exchange_type="topic")
    relays = Relays(sender.service)
    relays.start()
    eventually(
        lambda: json.loads(run(tasks.app, "show", id, "--json"))["state"] == "failure",
    )
    relays.close()
    (cause,) = json.loads(run(dead.app, "ls", "--json"))["causes"]
    assert (cause["reason"], cause["example_id"]) == ("refused:NoRoute", id)
    assert json.loads(run(dead.app, "show", id, "--json"))["name"] == "add"
    run(tasks.app, "retry", id)
    assert json.loads(run(dead.app, "ls", "--json"))["causes"] == []
    assert json.loads(run(tasks.app, "show", id, "--json"))["state"] == "waiting"
    assert sender.service.resource(Outbox).backlog("task").ready == 1


def test_what_has_left_is_purged_when_it_is_old(
    sender: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, open_ = send(sender, "add"), send(sender, "add")
    relay_all(sender)
    assert purged() == 0
    monkeypatch.setenv("APP_OUTBOX_RETENTION_SECONDS", "1")
    store = sender.reports.store
    assert store is not None
    store.record(TaskStatus(id=done, name="add", state=State.SUCCESS))
    assert eventually(purged) == 1
    # What would send a task again stays until that has ended, too.
    store.record(TaskStatus(id=open_, name="add", state=State.SUCCESS))
    assert eventually(purged) == 1


def purged() -> int:
    (counts,) = json.loads(run(db.app, "purge", "--json")).values()
    return int(counts["outbox"])
