"""Plain `flask` and plain `celery`, typed in the service's folder, without `mainstay`."""

from __future__ import annotations

import json
import secrets
import sqlite3
from functools import partial
from pathlib import Path

import httpx
import pytest

from mainstay.processes.ports import steady_port
from mainstay.testing.servers import Redis
from mainstay.testing.wait import eventually
from tests.services import commands
from tests.services.books.platform import API, SERVICE
from tests.services.platform import environment
from tests.waiting import PATIENCE_SECONDS

running = partial(commands.running, SERVICE)
SEND = """
from books.worker import process_video, thumbnail
print(thumbnail.delay("a.png").id)
print(process_video.delay("b.mov").id)
print(thumbnail.apply_async(["c.png"], queue="gpu").id)
"""


def environ(folder: Path, broker: str, **given: str) -> dict[str, str]:
    named = {
        "APP_ENV": "test",
        "DATABASE_URL": f"sqlite:///{folder}/books.db",
        "CELERY_BROKER_URL": broker,
        "CELERY_RESULT_BACKEND": broker,
        "FLASK_SECRET_KEY": secrets.token_hex(32),
        "APP_METRICS_PORT": "0",
        "MAINSTAY_EMBEDDED": "0",
    }
    return environment(**named | given)


def do(env: dict[str, str], *command: str) -> str:
    return commands.do(SERVICE, env, *command).stdout


def test_flask_runs_it_on_sqlite_and_with_eager_tasks(tmp_path: Path) -> None:
    env = environ(tmp_path, "redis://127.0.0.1:1", CELERY_TASK_ALWAYS_EAGER="1")
    assert "Groups and types" in do(env, "flask", "--app", "books.app", "db", "upgrade")
    assert "agree" in do(env, "flask", "--app", "books.app", "db", "check")
    port = steady_port()
    command = ("flask", "--app", "books.app", "run", "--port", str(port))
    with (
        running(env, tmp_path / "log", *command),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as client,
    ):
        eventually(lambda: client.get("/readyz").status_code)
        row = {"id": 1, "name": "Texts", "comment": None}
        assert client.post(f"{API}/groups/", json=row).status_code == 201
        assert client.get(f"{API}/groups/").json() == {"items": [row], "total": 1}
        assert client.post(f"{API}/groups/", json=row).status_code == 400
        assert client.post(f"{API}/types/", json={"id": 1, "group_id": 2}).status_code == 400
        assert client.post(f"{API}/types/", json={"id": 1, "group_id": 1}).status_code == 201
        assert client.delete(f"{API}/groups/1").status_code == 409

        records = [{"id": " 1 ", "payload": " text "}]
        body = {"source": "shelf", "enqueue": True, "records": records}
        answer = client.post(f"{API}/importer/ingest", json=body)
        assert answer.status_code == 202, answer.text
        (task,) = answer.json()["tasks"]
        assert task["result"] == {"id": "1", "payload": "text"}
        told = client.post(f"{API}/importer/progress", json={"records": records}).json()
        status = client.get(told["status_url"]).json()
        assert status["state"] == "SUCCESS"
        assert status["result"] == {"records": [{"id": "1", "payload": "text"}]}


def test_a_worker_takes_the_queues_that_it_is_given(tmp_path: Path, redis_server: Redis) -> None:
    # In a database of its own: other tests have workers on this server.
    env = environ(tmp_path, redis_server.url.removesuffix("/0") + "/7")
    do(env, "flask", "--app", "books.app", "db", "upgrade")
    for_cpu, for_gpu, asked_for_gpu = do(env, "python", "-c", SEND).split()

    def worker(queue: str) -> tuple[str, ...]:
        return ("celery", "-A", "books.worker", "worker", "--queues", queue, "--concurrency", "1")

    with sqlite3.connect(tmp_path / "books.db") as rows:

        def states() -> dict[str, str]:
            return dict(rows.execute("select task_id, state from mainstay_task_status").fetchall())

        done = {for_gpu: "success", asked_for_gpu: "success"}
        with running(env, tmp_path / "gpu.log", *worker("gpu")):
            eventually(lambda: done.items() <= states().items())
            assert states()[for_cpu] == "waiting"
        with running(env, tmp_path / "cpu.log", *worker("cpu")):
            eventually(lambda: states()[for_cpu] == "success")


SEND_BATCH = """
from books.worker import process_batch_with_progress
records = [{"id": number, "payload": " x "} for number in range(5_000)]
print(process_batch_with_progress.delay(records).id)
"""


def test_a_batch_that_is_begun_again_tells_no_less_than_before(
    tmp_path: Path, redis_server: Redis
) -> None:
    env = environ(tmp_path, redis_server.url.removesuffix("/0") + "/8")
    do(env, "flask", "--app", "books.app", "db", "upgrade")
    do(env, "python", "-c", SEND_BATCH)
    worker = ("celery", "-A", "books.worker", "worker", "--concurrency", "1")
    dying = env | {"MAINSTAY_FAILPOINT": "tasks.before_commit:kill"}
    with sqlite3.connect(tmp_path / "books.db") as rows:

        def status() -> tuple[str, int]:
            asked = "select state, progress from mainstay_task_status"
            state, progress = rows.execute(asked).fetchone()
            return state, json.loads(progress or "{}").get("current", 0)

        with running(dying, tmp_path / "dying.log", *worker) as first:
            eventually(lambda: status()[1] == 5_000)
            first.kill()
        with running(env, tmp_path / "second.log", *worker):
            told = [status()]
            while told[-1][0] not in ("success", "failure"):
                told.append(status())
        assert told[-1][0] == "success"
        assert {current for _, current in told} == {5_000}
    rows.close()


def refused(env: dict[str, str], *command: str) -> str:
    """Start what must not start, and return what it says."""
    said = commands.do(SERVICE, env, *command, exit_code=78).stderr
    assert "Traceback" not in said
    return said


COMMANDS = {
    "flask": ["flask", "--app", "books.app", "run", "--port", "0"],
    "mainstay": ["mainstay", "run", "books.api"],
    "celery": ["celery", "-A", "books.worker", "worker"],
}


@pytest.mark.parametrize("broker", ["amqp://app:canary-7@127.0.0.1", "memory://"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_broker_that_is_not_redis_is_refused(tmp_path: Path, command: str, broker: str) -> None:
    said = refused(environ(tmp_path, broker), *COMMANDS[command])
    assert "CELERY_BROKER_URL" in said
    assert "redis" in said
    assert "canary" not in said


def test_everything_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    needed = ("CELERY_BROKER_URL", "FLASK_SECRET_KEY", "DATABASE_URL")
    given = environ(tmp_path, "redis://127.0.0.1:1")
    env = {name: value for name, value in given.items() if name not in needed}
    said = refused(env, *COMMANDS["flask"])
    for name in needed:
        assert name in said
