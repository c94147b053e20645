"""A second terminal beside `mainstay dev` finds the servers, and sees what becomes of work."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest
import redis

from mainstay import devfile
from mainstay.resources.redis import RedisDeadLetters
from mainstay.testing.wait import eventually
from tests.services.commands import do
from tests.services.data.platform import API
from tests.services.data.test_processing import finished, logs_of
from tests.services.platform import Platform, environment
from tests.waiting import PATIENCE_SECONDS


def printed(platform: Platform, *command: str) -> dict[str, Any]:
    ended = platform.run(*command, "--json")
    assert ended.returncode == 0, ended.stderr
    document: dict[str, Any] = json.loads(ended.stdout)
    return document


def causes(platform: Platform, queue: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = printed(platform, "dead", "ls", "--queue", queue)["causes"]
    return found


@pytest.fixture
def valkey(embedded_platform: Platform) -> redis.Redis:
    told = devfile.find(embedded_platform.folder, "data")
    return redis.Redis.from_url(told["REDIS_URL"])


@pytest.fixture
def address(embedded_platform: Platform) -> str:
    return embedded_platform.url


def test_messages_that_nobody_can_read_are_dead_letters_and_work_goes_on(
    embedded_platform: Platform, valkey: redis.Redis, address: str
) -> None:
    with valkey:
        valkey.lpush("data_tasks", b"{broken")
        valkey.xadd("data_queue", {"body": b"{broken", "headers": b"{}", "id": b"broken-1"})
        dead = RedisDeadLetters(valkey, {})
        queues = ("data_tasks", "data_queue")
        assert eventually(lambda: all(list(dead.letters(queue)) for queue in queues))
    (cause,) = causes(embedded_platform, "data_queue")
    assert (cause["kind"], cause["count"]) == ("call", 1)
    assert cause["reason"].startswith("decode:")

    shown = printed(embedded_platform, "dead", "show", cause["example_id"])
    assert shown["body"] == "{broken"
    for queue in queues:
        example = causes(embedded_platform, queue)[0]["example_id"]
        command = ("dead", "discard", "--all-like", example, "--queue", queue)
        discarded = embedded_platform.run(*command)
        assert discarded.returncode == 0, discarded.stderr
        assert causes(embedded_platform, queue) == []

    assert httpx.post(
        f"{address}{API}/data/process", json={"payload": 1}, timeout=PATIENCE_SECONDS
    ).is_success


def test_tasks_can_be_listed_and_shown(embedded_platform: Platform, address: str) -> None:
    with httpx.Client(base_url=address, timeout=PATIENCE_SECONDS) as client:
        task_id = client.post(f"{API}/data/process-async", json={"payload": 1}).json()["task_id"]
        finished(client, task_id)
    listed = printed(embedded_platform, "tasks", "ls")
    assert task_id in json.dumps(listed)
    shown = printed(embedded_platform, "tasks", "show", task_id)
    assert shown["state"] == "success"
    unknown = embedded_platform.run("tasks", "show", "never-issued")
    assert unknown.returncode == 1
    assert "never-issued" in unknown.stderr


def test_the_platform_is_asked_whether_it_is_well(embedded_platform: Platform) -> None:
    told = printed(embedded_platform, "health")["processes"]
    assert [each["process"] for each in told] == ["data.api", "data.worker", "data.dataservice"]
    assert all(each["healthy"] for each in told)


def test_the_schema_is_current(embedded_platform: Platform) -> None:
    ended = embedded_platform.run("db", "check")
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_what_a_setting_is_and_where_it_came_from_is_shown_without_secrets(
    embedded_platform: Platform,
) -> None:
    (service,) = printed(embedded_platform, "config")["services"]
    settings = service["settings"]
    assert settings["database_url"]["origin"].startswith("embedded")
    assert "***" in settings["database_url"]["value"]
    told = devfile.find(embedded_platform.folder, "data")
    secrets = [value for name, value in told.items() if "SECRET" in name or "URL" in name]
    text = json.dumps(service)
    assert secrets
    assert not [secret for secret in secrets if secret in text]


def test_plain_celery_and_alembic_work_in_the_services_folder(
    embedded_platform: Platform,
) -> None:
    folder = embedded_platform.folder / "services" / "data"
    inspect = ("celery", "-A", "data.worker:celery_app", "inspect", "ping")
    eventually(lambda: do(folder, environment(), *inspect))
    do(folder, environment(), "alembic", "current")


@contextmanager
def frozen(platform: Platform, process: str) -> Iterator[None]:
    """Stop *process* as a debugger does, and let it go on."""
    pids = platform.pids(process)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=PATIENCE_SECONDS) as client:
        yield client


def test_a_task_that_is_called_off_has_failed_wherever_one_looks(
    embedded_platform: Platform, client: httpx.Client
) -> None:
    with frozen(embedded_platform, "data.worker"):
        body = {"payload": 1, "description": "square"}
        task_id = client.post(f"{API}/data/process-async", json=body).json()["task_id"]
        revoked = embedded_platform.run("tasks", "revoke", task_id)
        assert revoked.returncode == 0, revoked.stderr
        told = finished(client, task_id).json()
        assert told["task_status"] == "Failure"
        record = client.get(f"{API}/database/records/{task_id}").json()
        assert (record["task_status"], record["outcome"]) == ("Failure", told["outcome"])
        page = client.get(f"{API}/database/records", params={"limit": 500}).json()["items"]
        assert record in page


def post(client: httpx.Client, correlation_id: str) -> httpx.Response:
    """Ask for a call that is given a second."""
    return client.post(
        f"{API}/data/process",
        json={"payload": 1},
        headers={"X-Timeout-Seconds": "1", "X-Correlation-ID": correlation_id},
    )


def statuses(client: httpx.Client, **wanted: str) -> list[str]:
    return [row["status"] for row in logs_of(client, **wanted)]


def is_known_to_be_gone(client: httpx.Client) -> httpx.Response:
    answer = post(client, "gone")
    assert answer.status_code == 503
    return answer


def test_a_call_that_nobody_answers_is_a_504_and_without_a_server_a_503(
    embedded_platform: Platform, client: httpx.Client
) -> None:
    with frozen(embedded_platform, "data.dataservice"):
        late = post(client, "late")
        assert late.status_code == 504, late.text
        assert late.headers["content-type"] == "application/problem+json"
        # The end is written also when the request is over by then.
        assert eventually(lambda: statuses(client, correlation_id="late") == ["started", "expired"])

        gone = eventually(lambda: is_known_to_be_gone(client))
        assert int(gone.headers["retry-after"]) >= 1
        assert eventually(
            lambda: statuses(client, correlation_id="gone")[-2:] == ["started", "retry"]
        )
    assert eventually(lambda: post(client, "back").status_code == 200)
    assert statuses(client, correlation_id="back")[-2:] == ["started", "done"]


def test_a_task_that_finds_no_server_waits_for_one(
    embedded_platform: Platform, client: httpx.Client
) -> None:
    with frozen(embedded_platform, "data.dataservice"):
        eventually(lambda: is_known_to_be_gone(client))
        answer = client.post(f"{API}/data/process-async", json={"payload": "later"})
        assert answer.status_code == 202, answer.text
        task_id = answer.json()["task_id"]
        assert eventually(lambda: "retry" in statuses(client, task_id=task_id))
        for path in ("data/process-async", "database/records"):
            told = client.get(f"{API}/{path}/{task_id}").json()
            assert (told["task_status"], told["outcome"]) == ("Processing", None)
    assert finished(client, task_id).json()["outcome"]["output"] == "processed: later"
    assert statuses(client, task_id=task_id)[-2:] == ["started", "done"]


def test_a_worker_that_dies_between_its_call_and_the_row_leaves_one_row(
    embedded_platform: Platform, client: httpx.Client
) -> None:
    told = devfile.find(embedded_platform.folder, "data")
    with psycopg.connect(told["DATABASE_URL"]) as other:
        with frozen(embedded_platform, "data.dataservice"):
            body = {"payload": 3, "description": "square"}
            task_id = client.post(f"{API}/data/process-async", json=body).json()["task_id"]
            # Every other writer of the record now waits.
            other.execute(
                "select 1 from data_processing_records where task_id = %s for update", [task_id]
            )
        assert eventually(lambda: "done" in statuses(client, task_id=task_id))
        for pid in embedded_platform.pids("data.worker"):
            os.kill(pid, signal.SIGKILL)
        record = client.get(f"{API}/database/records/{task_id}").json()
        assert (record["task_status"], record["outcome"]) == ("Processing", None)
        others = client.get(f"{API}/database/records?count=true").json()["total"]
    outcome = finished(client, task_id).json()["outcome"]
    assert outcome["output"] == 9
    record = client.get(f"{API}/database/records/{task_id}").json()
    assert (record["task_status"], record["outcome"]) == ("Success", outcome)
    assert client.get(f"{API}/database/records?count=true").json()["total"] == others
    assert statuses(client, task_id=task_id).count("done") >= 2
