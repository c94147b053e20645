"""`mainstay tasks`, as typed in a service's folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mainstay.cli.tasks import app as command
from mainstay.config import Settings
from mainstay.deadletters import DeadLetter, dead_letters_of
from mainstay.errors import Conflict, NotFound
from mainstay.resources.redis.client import connect
from mainstay.tasks.celery import App, create_celery_app
from mainstay.tasks.status import State, TaskStatus


@pytest.fixture
def sender(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APP_ENV", "test")
    monkeypatch.setenv("CELERY_BROKER_URL", redis_url)
    app = create_celery_app(Settings(env="test", celery_broker_url=redis_url))
    yield app
    app.service.lifecycle.stop()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_tasks_are_listed_and_shown(sender: App) -> None:
    id = sender.send_task("add", (1, 2)).id
    result = run("ls", "--json")
    assert result.exit_code == 0, result.output
    listed = json.loads(result.stdout)["tasks"]
    assert [(task["id"], task["name"], task["state"]) for task in listed] == [
        (id, "add", "waiting")
    ]
    assert id in run("ls").stdout
    assert json.loads(run("ls", "--state", "failure", "--json").stdout) == {"tasks": []}
    assert json.loads(run("show", id, "--json").stdout)["queue"] == "default"
    assert "state: waiting" in run("show", id).stdout


def test_a_state_that_does_not_exist_is_a_usage_error(sender: App) -> None:
    result = run("ls", "--state", "mislaid")
    assert result.exit_code == 2
    assert "waiting" in result.output


def test_an_id_that_was_never_issued_is_said_to_be_none(sender: App) -> None:
    assert isinstance(run("show", "never-issued").exception, NotFound)


def test_a_waiting_task_is_called_off_once(sender: App) -> None:
    id = sender.send_task("add", (1, 2)).id
    assert run("revoke", id).exit_code == 0
    status = sender.status(id)
    assert status is not None
    assert status.state is State.REVOKED
    assert isinstance(run("revoke", id).exception, Conflict)


def test_a_failed_task_waits_again_from_its_dead_letter(sender: App, redis_url: str) -> None:
    client = connect(redis_url)
    id = sender.send_task("add", (1, 2)).id
    envelope = client.rpop("default")
    assert isinstance(envelope, bytes)
    letter = DeadLetter(id, "task", "default", "failed:ValueError", "add", envelope=envelope)
    client.xadd(dead_letters_of("default"), letter.to_fields())  # type: ignore[arg-type] # narrower than it takes
    store = sender.reports.store
    assert store is not None
    store.record(TaskStatus(id=id, state=State.FAILURE, attempts=1))

    result = run("retry", id)
    assert result.exit_code == 0, result.output
    assert client.llen("default") == 1
    assert client.xlen(dead_letters_of("default")) == 0
    status = sender.status(id)
    assert status is not None
    assert status.state is State.WAITING
    assert isinstance(run("retry", id).exception, Conflict)
    client.close()
