"""What becomes of contracts while processes die, with `flask` and `celery` typed by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any
from uuid import uuid4

import httpx
import pytest

from mainstay.processes.ports import steady_port
from mainstay.testing.wait import eventually
from tests.services.contracts.platform import API, Receiver, do, ended, running, steps
from tests.services.platform import environment
from tests.waiting import PATIENCE_SECONDS

Env = dict[str, str]
ROOF = {"title": "Roof", "customer": "Ann", "amount": 1200.5, "currency": "EUR"}
SERVERS = {
    "embedded": ("embedded_database_url", "embedded_valkey_url"),
    "rabbitmq": ("database_url", "rabbitmq_url"),
}


@pytest.fixture
def env(request: pytest.FixtureRequest, receiver: Receiver) -> Env:
    database, broker = (request.getfixturevalue(name) for name in SERVERS[request.param])
    made = environment(
        APP_ENV="test",
        APP_METRICS_PORT="0",
        APP_NOTIFY_URL=receiver.url,
        DATABASE_URL=database,
        CELERY_BROKER_URL=broker,
        MAINSTAY_EMBEDDED="0",
    )
    do(made, "flask", "--app", "contracts.app", "db", "upgrade")
    return made


@contextmanager
def serving(env: Env, log: Path) -> Iterator[httpx.Client]:
    port = steady_port()
    command = ("flask", "--app", "contracts.app", "run", "--port", str(port))
    with (
        running(env, log, *command),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as client,
    ):
        eventually(lambda: client.get("/readyz").status_code)
        yield client


@pytest.fixture
def client(env: Env, tmp_path: Path) -> Iterator[httpx.Client]:
    with serving(env, tmp_path / "api.log") as client:
        yield client


def worker(env: Env, log: Path, queue: str, **more: str) -> AbstractContextManager[Popen[bytes]]:
    """Start a worker with one child, for one of the queues."""
    command = ("celery", "-A", "contracts.celery_app", "worker", "--queues", queue)
    return running(env | more, log, *command, "--concurrency", "1")


def lines(log: Path, **wanted: object) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [each for each in found if all(each.get(name) == wanted[name] for name in wanted)]


def accepted(client: httpx.Client, **fields: object) -> str:
    answer = client.post(API, json=ROOF | fields)
    assert answer.status_code == 202, answer.text
    id: str = answer.json()["id"]
    return id


def placed(client: httpx.Client, key: dict[str, str]) -> httpx.Response:
    answer = client.post(API, json=ROOF, headers=key)
    assert answer.status_code != 409, answer.text
    return answer


@pytest.mark.parametrize("env", ["rabbitmq"], indirect=True)
def test_a_step_whose_process_is_killed_and_one_that_fails_twice_come_to_their_end(
    env: Env, client: httpx.Client, receiver: Receiver, tmp_path: Path
) -> None:
    customer = f"Eve {uuid4()}"
    receiver.answers[customer] = [503, 503, 204]
    log = tmp_path / "documents.log"
    # The first contract leaves the child that then dies over the second one, at its commit.
    killed = {"MAINSTAY_FAILPOINT": "tasks.before_commit:kill@2"}
    with (
        worker(env, tmp_path / "contracts.log", "contracts"),
        worker(env, log, "contracts_documents", **killed),
    ):
        assert ended(client, accepted(client))["status"] == "active"
        id = accepted(client, customer=customer)
        contract = ended(client, id)
        told = client.get(f"{API}/{id}/workflow").json()
    assert contract["status"] == "active"
    assert customer in contract["document"]
    assert steps(client, id) == [
        *(("validate", "success", 1), ("render", "success", 1), ("notify", "success", 3))
    ]
    render, notify = told["steps"][1:]
    assert [line["task_id"] for line in lines(log, event="worker_lost")] == [render["task_id"]]
    begun = lines(log, event="task_started", task_id=render["task_id"])
    done = lines(log, event="task", task_id=render["task_id"])
    assert (len(begun), [line["outcome"] for line in done]) == (2, ["done"])
    outcomes = lines(tmp_path / "contracts.log", event="task", task_id=notify["task_id"])
    assert [line["outcome"] for line in outcomes] == ["retry", "retry", "done"]
    assert receiver.told[customer] == [notify["task_id"]]


@pytest.mark.parametrize("env", ["embedded"], indirect=True)
def test_a_step_that_kills_every_process_fails_and_is_done_by_one_that_lives(
    env: Env, client: httpx.Client, receiver: Receiver, tmp_path: Path
) -> None:
    customer = f"Joe {uuid4()}"
    killed = {"MAINSTAY_FAILPOINT": "tasks.before_commit:kill"}
    with worker(env, tmp_path / "contracts.log", "contracts"):
        with worker(env, tmp_path / "dying.log", "contracts_documents", **killed):
            id = accepted(client, customer=customer)
            assert ended(client, id)["status"] == "failed"
        workflow = client.get(f"{API}/{id}/workflow").json()
        assert [step["status"] for step in workflow["steps"]] == ["success", "failure", "skipped"]
        assert workflow["steps"][1]["error"]["type"] == "delivery-limit"
        (listed,) = client.get(API).json()["items"]
        assert (listed["id"], listed["status"], listed["document"]) == (id, "failed", None)

        assert client.post(f"{API}/{id}/retry").json()["status"] == "validated"
        with worker(env, tmp_path / "living.log", "contracts_documents"):
            contract = ended(client, id)
    assert contract["status"] == "active"
    assert customer in contract["document"]
    assert [status for _, status, _ in steps(client, id)] == ["success"] * 3
    assert steps(client, id)[0] == ("validate", "success", 1)
    assert len(receiver.told[customer]) == 1


@pytest.mark.parametrize("env", ["embedded"], indirect=True)
@pytest.mark.parametrize("point", ["keys.before_commit", "keys.after_commit"])
def test_contract_workflow_and_key_are_kept_together_or_not_at_all(
    env: Env, tmp_path: Path, point: str
) -> None:
    key = {"Idempotency-Key": str(uuid4())}
    # The claim of who dies is held until its lease ends, which is that of the request.
    dies = env | {"MAINSTAY_FAILPOINT": f"{point}:kill", "APP_REQUEST_TIMEOUT_SECONDS": "10"}
    with (
        serving(dies, tmp_path / "dies.log") as client,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        client.post(API, json=ROOF, headers=key)
    with serving(env, tmp_path / "lives.log") as client:
        kept = [each["id"] for each in client.get(API).json()["items"]]
        assert len(kept) == (1 if point == "keys.after_commit" else 0)
        again = eventually(lambda: placed(client, key), timeout_seconds=90, every_seconds=0.5)
        assert again.status_code == 202, again.text
        assert ("idempotency-replayed" in again.headers) == bool(kept)
        assert [each["id"] for each in client.get(API).json()["items"]] == [again.json()["id"]]
        with (
            worker(env, tmp_path / "contracts.log", "contracts"),
            worker(env, tmp_path / "documents.log", "contracts_documents"),
        ):
            assert ended(client, again.json()["id"])["status"] == "active"
    begun = lines(tmp_path / "contracts.log", event="task_started", name="contracts.validate")
    assert len(begun) == 1
