"""The rooms of the contract, each with the same handles."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import text

from mainstay.config import Settings
from mainstay.deadletters import DeadLetter, DeadLetters
from mainstay.processes import facts
from mainstay.resources.amqp.deadletters import AmqpDeadLetters
from mainstay.resources.redis import RedisDeadLetters
from mainstay.resources.redis.client import connect
from mainstay.resources.sqlalchemy import Database, tables
from mainstay.resources.sqlalchemy.migrate import upgrade
from mainstay.service import Service
from mainstay.tasks.celery import App, create_celery_app
from mainstay.tasks.celery.profiles import transport_of
from mainstay.tasks.celery.transport import requeue
from mainstay.tasks.memory import MemoryTasks
from mainstay.tasks.status import TaskStatus
from mainstay.testing import eventually
from tests.contract.tasks import sample
from tests.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[3]
ON_DATABASES = ("redis on sqlite", "rabbitmq on postgresql")
NOT_INHERITED = ("CELERY_", "APP_", "REDIS_", "DATABASE_", "RABBITMQ_")


class Room(Protocol):
    """What the contract asks of a room."""

    def send(self, name: str, *args: Any) -> str: ...

    def status(self, id: str) -> TaskStatus | None: ...

    def letter(self, id: str) -> DeadLetter: ...

    def ended(self, id: str) -> TaskStatus: ...


class MemoryRoom:
    def __init__(self, clock: list[float]) -> None:
        self._clock = clock
        self._tasks = MemoryTasks(backoff=sample.BACKOFF, clock=lambda: clock[0])
        for function in sample.PLAIN.values():
            self._tasks.task(function)

    def send(self, name: str, *args: Any) -> str:
        return self._tasks.send(name, *args)

    def status(self, id: str) -> TaskStatus | None:
        return self._tasks.status(id)

    def letter(self, id: str) -> DeadLetter:
        found = [letter for letter in self._tasks.dead if letter.id == id]
        assert len(found) == 1, "one death, one letter"
        return found[0]

    def ended(self, id: str) -> TaskStatus:
        while self._tasks.next_due is not None:
            self._clock[0] = max(self._clock[0], self._tasks.next_due)
            self._tasks.run()
        status = self._tasks.status(id)
        assert status is not None
        assert status.state.is_final
        return status


class CeleryRoom:
    """A queue of its own on a real broker, and the workers that a test starts for it.

    Args:
        url: The broker.
        folder: For effects and logs.
        database_url: Where statuses and effects are; else statuses are in Redis.
    """

    def __init__(self, url: str, folder: Path, database_url: str | None = None) -> None:
        self.url = url
        self.queue = f"q{secrets.token_hex(4)}"
        self.effects_file = folder / f"effects-{self.queue}"
        self.effects_file.touch()
        self._folder = folder
        self._database_url = database_url
        self.settings = Settings(
            env="test",
            celery_broker_url=url,
            celery_default_queue=self.queue,
            database_url=database_url,
        )
        self.service = Service(self.settings, Database())
        self.app: App = create_celery_app(self.service)
        self.shared: Worker | None = None

    def moved(self, url: str) -> CeleryRoom:
        """Return a room that reaches the same broker at another address."""
        return CeleryRoom(url, self._folder, self._database_url)

    def another(self) -> CeleryRoom:
        """Return a room with a queue of its own on the same servers."""
        return CeleryRoom(self.url, self._folder, self._database_url)

    def send(self, name: str, *args: Any, **options: Any) -> str:
        return str(self.app.send_task(name, args, **options).id)

    def status(self, id: str) -> TaskStatus | None:
        return self.app.status(id)

    @property
    def letters(self) -> DeadLetters:
        if transport_of(self.url) == "amqp":
            return AmqpDeadLetters(self.url, known=(self.queue,))
        return RedisDeadLetters(connect(self.url), {"task": requeue})

    def dead(self) -> list[DeadLetter]:
        return list(self.letters.letters(self.queue))

    def ended(self, id: str, *, timeout_seconds: float = 90.0) -> TaskStatus:
        def final() -> TaskStatus | None:
            status = self.app.status(id)
            return status if status is not None and status.state.is_final else None

        found = eventually(final, timeout_seconds=timeout_seconds)
        assert found is not None
        return found

    def letter(self, id: str, *, timeout_seconds: float = PATIENCE_SECONDS) -> DeadLetter:
        """Wait for the dead letter of a task."""
        found = eventually(
            lambda: [letter for letter in self.dead() if letter.id == id],
            timeout_seconds=timeout_seconds,
        )
        assert len(found) == 1, "one death, one letter"
        return found[0]

    def publish(self, body: Any, headers: Any, **properties: Any) -> None:
        """Put a message on the queue as anybody might who can reach the broker."""
        with self.app.connection_for_write() as connection:
            queue = self.app.amqp.queues[self.queue]
            producer = connection.Producer(auto_declare=False)
            producer.publish(
                body,
                exchange=queue.exchange if transport_of(self.url) == "amqp" else "",
                routing_key=queue.routing_key,
                headers=headers,
                declare=[queue],
                **{"content_type": "application/json", "content_encoding": "utf-8"} | properties,
            )

    def revoked(self, worker: Worker) -> set[str]:
        """Return the ids of the tasks that *worker* is not to begin."""
        told = self.app.control.inspect(timeout=1).revoked() or {}
        pid = worker.process.pid
        return {id for name, ids in told.items() if f"-{pid}@" in name for id in ids}

    def effects(self) -> list[str]:
        return self.effects_file.read_text().splitlines()

    def clear(self) -> None:
        """Forget the effects so far, and what waits or is dead in the database."""
        self.effects_file.write_bytes(b"")
        database = self.service.resource(Database)
        with database.session() as session:
            session.execute(text("delete from effects"))
            for name in ("outbox", "dead_letters"):
                session.execute(tables.table(name, database.engine.dialect.name).delete())

    def release(self, key: str) -> None:
        """Let the task that holds *key* go on."""
        sample.gate_of(self.effects_file, key).touch()

    @contextmanager
    def worker(self, *options: str, concurrency: int = 1, **variables: str) -> Iterator[Worker]:
        command = ["celery", "-A", sample.__name__, "worker", "--without-mingle"]
        command += ["--concurrency", str(concurrency), *options]
        with self._process(command, variables) as worker:
            yield worker

    @contextmanager
    def relay(self, **variables: str) -> Iterator[Worker]:
        """A process of kind `relay`, as the manifest starts it."""
        target = f"{sample.__name__}:celery_app"
        command = ["mainstay.processes.start", target, "--", "mainstay.processes.relay", target]
        with self._process(command, variables) as relay:
            yield relay

    @contextmanager
    def beat(self, **variables: str) -> Iterator[Worker]:
        """A `celery beat`, typed as a user would."""
        with self._process(["celery", "-A", sample.__name__, "beat"], variables) as beat:
            yield beat

    @contextmanager
    def _process(self, command: list[str], variables: Mapping[str, str]) -> Iterator[Worker]:
        environment = {
            "APP_ENV": "test",
            "APP_METRICS_PORT": "0",
            "CELERY_BROKER_URL": self.url,
            "CELERY_DEFAULT_QUEUE": self.queue,
            sample.EFFECTS: str(self.effects_file),
            **({"DATABASE_URL": self._database_url} if self._database_url else {}),
            **variables,
        }
        worker = Worker(command, environment, self._folder)
        try:
            yield worker
        except BaseException:
            print(worker.log.read_text()[-20_000:])  # noqa: T201 - pytest shows it of a failure
            raise
        finally:
            worker.kill()

    def close(self) -> None:
        self.service.lifecycle.stop()


class Worker:
    """One `celery worker`, typed as a user would, or another process beside it."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        self.log = folder / f"worker-{secrets.token_hex(4)}.log"
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", *command],
                cwd=ROOT,
                env={**inherited, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return what the worker has logged, each line an object."""
        found = []
        whole, _, _being_written = self.log.read_bytes().rpartition(b"\n")
        for line in whole.splitlines():
            if line.startswith(b"{"):
                entry: dict[str, Any] = json.loads(line)
                if event is None or entry.get("event") == event:
                    found.append(entry)
        return found

    def tries(self, id: str) -> list[dict[str, Any]]:
        """Return the line of each try of a task so far: each follows what others see of it."""
        return [line for line in self.lines("task") if line["task_id"] == id]

    def ready(self) -> Worker:
        eventually(lambda: self.lines("startup_success") or not self.is_running)
        assert self.is_running, self.log.read_text()[-4000:]
        return self

    @property
    def port(self) -> int:
        return int(self.lines("monitor_started")[0]["port"])

    def get(self, path: str) -> tuple[int, str]:
        """Ask the worker's own port."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE_SECONDS
            ) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, metric: str, /, **labels: str) -> float:
        """Return one value of `/metrics`; 0 when it is not there."""
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(metric) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                return float(line.rpartition(" ")[2])
        return 0.0

    @property
    def children(self) -> list[int]:
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for each in tasks for pid in each.read_text().split()]

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def terminate(self, *, timeout_seconds: float = 90.0) -> int:
        """Ask it to end, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_seconds)

    def kill(self) -> None:
        """End its main process at once, as a machine that fails does; children follow."""
        children = self.children if self.is_running else []
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_SECONDS)
        eventually(lambda: not any(facts.is_alive(child) for child in children))


def worker_of(room: CeleryRoom) -> Worker:
    """Return the worker that the tests of *room* share."""
    assert room.shared is not None
    return room.shared


def prepare_database(url: str) -> str:
    """Make the tables that the sample writes to."""
    upgrade(url, say=lambda _line: None)
    database = Database(url=url)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("create table effects (key varchar(64))")
    database.close()
    return url
