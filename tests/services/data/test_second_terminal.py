"""A second terminal beside `mainstay dev` finds the servers, and sees what becomes of work."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import httpx
import pytest
import redis

from mainstay import devfile
from mainstay.testing.wait import eventually
from tests.services.commands import do
from tests.services.data.platform import API
from tests.services.data.test_processing import finished
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

    def buried() -> bool:
        return bool(
            causes(embedded_platform, "data_tasks") and causes(embedded_platform, "data_queue")
        )

    assert eventually(buried, every_seconds=0.3)
    (cause,) = causes(embedded_platform, "data_queue")
    assert (cause["kind"], cause["count"]) == ("call", 1)
    assert cause["reason"].startswith("decode:")

    shown = printed(embedded_platform, "dead", "show", cause["example_id"])
    assert shown["body"] == "{broken"
    for queue in ("data_queue", "data_tasks"):
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


def test_a_task_that_is_called_off_has_failed_wherever_one_looks(
    embedded_platform: Platform, address: str
) -> None:
    worker = embedded_platform.pids("data.worker")
    for pid in worker:
        os.kill(pid, signal.SIGSTOP)
    try:
        with httpx.Client(base_url=address, timeout=PATIENCE_SECONDS) as client:
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
    finally:
        for pid in worker:
            os.kill(pid, signal.SIGCONT)


def test_a_call_that_nobody_answers_is_a_504_and_without_a_server_a_503(
    embedded_platform: Platform, address: str
) -> None:
    with httpx.Client(base_url=address, timeout=PATIENCE_SECONDS) as client:

        def post(**headers: str) -> httpx.Response:
            return client.post(f"{API}/data/process", json={"payload": 1}, headers=headers)

        server = embedded_platform.pids("data.dataservice")
        for pid in server:
            os.kill(pid, signal.SIGSTOP)
        try:
            late = post(**{"X-Timeout-Seconds": "1"})
            assert late.status_code == 504, late.text
            assert late.headers["content-type"] == "application/problem+json"

            def is_known_to_be_gone() -> httpx.Response:
                answer = post(**{"X-Timeout-Seconds": "1"})
                assert answer.status_code == 503
                return answer

            gone = eventually(is_known_to_be_gone)
            assert int(gone.headers["retry-after"]) >= 1
        finally:
            for pid in server:
                os.kill(pid, signal.SIGCONT)
        assert eventually(lambda: post().status_code == 200)
