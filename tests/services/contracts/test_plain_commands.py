"""Plain `flask`, `celery` and `alembic`, typed in the service's folder, without `mainstay`."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from contracts.app import create_app
from contracts.config.celery_settings import Settings
from mainstay.processes.ports import steady_port
from mainstay.tasks.celery import get_celery_app
from mainstay.testing.wait import eventually
from tests.services.contracts.platform import API, do, ended, running, steps
from tests.services.platform import environment
from tests.waiting import PATIENCE_SECONDS

NOWHERE = "redis://127.0.0.1:1"
NEEDED = ("DATABASE_URL", "CELERY_BROKER_URL")


def environ(folder: Path, broker: str, **given: str) -> dict[str, str]:
    named = {
        "APP_ENV": "test",
        "APP_METRICS_PORT": "0",
        "DATABASE_URL": f"sqlite:///{folder}/contracts.db",
        "CELERY_BROKER_URL": broker,
        "MAINSTAY_EMBEDDED": "0",
    }
    return environment(**named | given)


def test_flask_runs_it_on_sqlite_and_with_eager_tasks(tmp_path: Path) -> None:
    env = environ(
        tmp_path,
        NOWHERE,
        CELERY_TASK_ALWAYS_EAGER="1",
        CELERY_TASK_EAGER_PROPAGATES="0",
    )
    assert "Contracts" in do(env, "flask", "--app", "contracts.app", "db", "upgrade")
    assert "agree" in do(env, "flask", "--app", "contracts.app", "db", "check")
    port = steady_port()
    command = ("flask", "--app", "contracts.app", "run", "--port", str(port))
    with (
        running(env, tmp_path / "log", *command),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as client,
    ):
        eventually(lambda: client.get("/readyz").status_code)
        roof = {"title": "Roof", "customer": "Ann", "amount": 1200, "currency": "JPY"}
        good = client.post(API, json=roof)
        assert good.status_code == 202, good.text
        id = good.json()["id"]
        assert ended(client, id)["status"] == "active"
        assert [status for _, status, _ in steps(client, id)] == ["success"] * 3
        bad = client.post(API, json=roof | {"amount": 0.5})
        assert bad.status_code == 202, bad.text
        assert ended(client, bad.json()["id"])["status"] == "failed"
        listed = client.get(API).json()["items"]
        assert {each["status"] for each in listed} == {"failed", "active"}


def test_tables_of_models_that_are_named_from_outside_are_compared(tmp_path: Path) -> None:
    (tmp_path / "more_models.py").write_text(
        "from sqlalchemy import Column, Integer, Table\n"
        "from contracts.model.base import Base\n"
        "Table('annexes', Base.metadata, Column('id', Integer, primary_key=True))\n"
    )
    env = environ(tmp_path, NOWHERE)
    do(env, "alembic", "upgrade", "head")
    env |= {"PYTHONPATH": str(tmp_path), "MODEL_DISCOVERY_PATHS": "contracts.model,more_models"}
    do(env, "flask", "--app", "contracts.app", "db", "upgrade")
    for command in (["alembic"], ["mainstay", "db"], ["flask", "--app", "contracts.app", "db"]):
        assert "annexes" in do(env, *command, "check", exit_code=255 if len(command) == 1 else 1)
    env["MODEL_DISCOVERY_PATHS"] = "more_modles"
    for command in (["alembic"], ["mainstay", "db"], ["flask", "--app", "contracts.app", "db"]):
        assert "'more_modles'" in do(env, *command, "check", exit_code=78)


def test_a_contract_that_failed_has_failed_when_its_steps_are_forgotten(tmp_path: Path) -> None:
    env = environ(
        tmp_path,
        NOWHERE,
        CELERY_TASK_ALWAYS_EAGER="1",
        CELERY_TASK_EAGER_PROPAGATES="0",
        APP_WORKFLOW_RETENTION_SECONDS="1",
    )
    flask = ("flask", "--app", "contracts.app")
    do(env, *flask, "db", "upgrade")
    port = steady_port()
    with (
        running(env, tmp_path / "log", *flask, "run", "--port", str(port)),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as client,
    ):
        eventually(lambda: client.get("/readyz").status_code)
        roof = {"title": "Roof", "customer": "Ann", "amount": 0.5}
        failed, active = (
            client.post(API, json=roof | {"currency": currency}).json()["id"]
            for currency in ("JPY", "EUR")
        )

        def is_forgotten() -> bool:
            do(env, *flask, "db", "purge")
            return {client.get(f"{API}/{id}/workflow").status_code for id in (failed, active)} == {
                404
            }

        assert client.get(f"{API}/{failed}").json()["status"] == "failed"
        assert client.get(f"{API}/{active}").json()["status"] == "active"
        eventually(is_forgotten)
        assert client.get(f"{API}/{failed}").json()["status"] == "failed"
        assert client.get(f"{API}/{active}").json()["status"] == "active"
        assert client.post(f"{API}/{failed}/retry").status_code == 409


def test_applications_can_be_given_their_settings_and_share_nothing(tmp_path: Path) -> None:
    for name in ("one", "two"):
        settings = Settings(
            env="test",
            service_name=name,
            database_url=f"sqlite:///{tmp_path}/{name}.db",
            celery_broker_url=NOWHERE,
        )
        app = create_app(settings)
        assert get_celery_app(app).service.settings is settings
        health = app.test_client().get("/health").json
        assert health is not None
        assert health["service"] == name
        assert health["checks"]["database"]["status"] == "healthy"
        get_celery_app(app).service.stop()


def test_celery_shows_queues_and_tasks_and_beats(
    tmp_path: Path, database_url: str, rabbitmq_url: str
) -> None:
    env = environ(tmp_path, rabbitmq_url, DATABASE_URL=database_url)
    assert "c3a70f5d9b14" in do(env, "alembic", "upgrade", "head") + do(env, "alembic", "current")
    do(env, "flask", "--app", "contracts.app", "db", "upgrade")
    celery = ("celery", "-A", "contracts.celery_app")
    beat = tmp_path / "beat.log"
    with (
        running(env, tmp_path / "worker.log", *celery, "worker", "--concurrency", "1"),
        running(env, beat, *celery, "beat"),
    ):
        eventually(lambda: "startup_success" in (tmp_path / "worker.log").read_text())
        eventually(lambda: do(env, *celery, "inspect", "ping"))
        queues = do(env, *celery, "inspect", "active_queues")
        for queue in ("contracts", "contracts_documents"):
            assert f"'{queue}'" in queues
            assert f"'{queue}_dlx'" in queues
        registered = do(env, *celery, "inspect", "registered")
        for step in ("validate", "render", "notify"):
            assert f"contracts.{step}" in registered
        eventually(lambda: "startup_success" in beat.read_text())


COMMANDS = {
    "flask": ["flask", "--app", "contracts.app", "run", "--port", "0"],
    "mainstay": ["mainstay", "run", "contracts.api"],
    "worker": ["celery", "-A", "contracts.celery_app", "worker"],
    "alembic": ["alembic", "current"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_setting_that_does_not_fit_is_named(tmp_path: Path, command: str) -> None:
    env = environ(tmp_path, NOWHERE, APP_NOTIFY_URL="ftp://canary-7@nowhere")
    said = do(env, *COMMANDS[command], exit_code=78)
    assert "APP_NOTIFY_URL" in said
    assert "Traceback" not in said
    assert "canary" not in said


def test_everything_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    given = environ(tmp_path, NOWHERE)
    env = {name: value for name, value in given.items() if name not in NEEDED}
    said = do(env, *COMMANDS["flask"], exit_code=78)
    for name in NEEDED:
        assert name in said
