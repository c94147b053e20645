"""A server that is gone is named and answered for, and work goes on when it is back."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from mainstay.testing.servers import RabbitMQ, Redis, Server
from mainstay.testing.wait import eventually
from tests.services.data.platform import API
from tests.services.platform import Platform
from tests.waiting import PATIENCE_SECONDS

CALL, TASK = f"{API}/data/process", f"{API}/data/process-async"


@pytest.fixture
def client(real_platform: Platform) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=real_platform.url, headers=real_platform.headers, timeout=PATIENCE_SECONDS
    ) as client:
        yield client


def hurt(server: Server, fault: str) -> None:
    {"stop": server.stop, "kill": server.kill, "pause": server.pause}[fault]()


def unwell(client: httpx.Client) -> tuple[int, set[str]]:
    ready = client.get("/ready")
    checks = ready.json()["checks"].items()
    return ready.status_code, {name for name, check in checks if check["status"] != "healthy"}


def works(client: httpx.Client, path: str) -> bool:
    answer = client.post(path, json={"payload": 1})
    return answer.is_success and client.get("/ready").status_code == 200


@pytest.mark.parametrize(
    ("name", "fault", "path", "checks"),
    [
        ("postgres", "stop", CALL, {"database", "outbox", "lost"}),
        ("postgres", "kill", TASK, {"database", "outbox", "lost"}),
        ("postgres", "pause", TASK, {"database", "outbox", "lost"}),
        ("rabbitmq", "stop", CALL, {"broker", "calls"}),
    ],
)
def test_without_a_server_requests_get_a_503_and_afterwards_all_is_well(
    request: pytest.FixtureRequest,
    client: httpx.Client,
    name: str,
    fault: str,
    path: str,
    checks: set[str],
) -> None:
    server: Server = request.getfixturevalue(name)
    assert eventually(lambda: works(client, path))
    hurt(server, fault)
    try:
        eventually(lambda: unwell(client) == (503, checks))
        for _ in range(3):
            answer = client.post(path, json={"payload": 1})
            assert answer.status_code == 503, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) >= 1
        assert client.get("/healthz").status_code == 200
    finally:
        server.start()
    assert eventually(lambda: works(client, path))


@pytest.mark.parametrize("fault", ["stop", "kill", "pause"])
def test_without_the_broker_tasks_are_accepted_and_done_when_it_is_back(
    rabbitmq: RabbitMQ, client: httpx.Client, fault: str
) -> None:
    assert eventually(lambda: works(client, TASK))
    hurt(rabbitmq, fault)
    try:
        eventually(lambda: unwell(client) == (503, {"broker", "calls"}))
        task_ids = []
        for number in range(5):
            answer = client.post(TASK, json={"payload": number, "description": "square"})
            assert answer.status_code == 202, answer.text
            task_ids.append(answer.json()["task_id"])
        for task_id in task_ids:
            told = client.get(f"{TASK}/{task_id}").json()
            assert told["task_status"] == "Processing"
            record = client.get(f"{API}/database/records/{task_id}")
            assert record.status_code == 200, record.text
            assert record.json()["task_status"] == "Processing"
    finally:
        rabbitmq.start()

    def outcomes() -> list[int]:
        told = [client.get(f"{TASK}/{task_id}").json() for task_id in task_ids]
        return [each["outcome"]["output"] for each in told]

    assert eventually(outcomes, timeout_seconds=90) == [0, 1, 4, 9, 16]
    assert eventually(lambda: works(client, TASK))


@pytest.mark.parametrize("path", [CALL, TASK])
def test_without_redis_that_is_no_broker_the_service_goes_on_degraded(
    redis_server: Redis, client: httpx.Client, path: str
) -> None:
    assert eventually(lambda: works(client, path))
    redis_server.stop()
    try:
        eventually(lambda: unwell(client) == (200, {"redis"}))
        assert client.get("/health").json()["status"] == "degraded"
        for _ in range(3):
            assert client.post(path, json={"payload": 1}).is_success
    finally:
        redis_server.start()
    eventually(lambda: unwell(client) == (200, set()))
