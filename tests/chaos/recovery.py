"""How soon does work go on after a worker, or the broker, was killed?

    python -m tests.chaos.recovery --kills 40 --outages 10 --broker rabbitmq

kills workers at work, each of which is started again at once, as a supervisor does, and measures
until the task that it had in hand is begun again. Then it kills the broker, and measures from the
moment the broker answers again until the first task is done.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from mainstay.config import Settings
from mainstay.service import Service
from mainstay.tasks.celery import App, create_celery_app
from mainstay.testing import RabbitMQ, Redis, eventually
from tests.chaos.patient import BEGUN
from tests.watchdog import guard

T = TypeVar("T")

__all__ = ["after_kills", "after_outages"]

ROOT = Path(__file__).parents[2]
QUEUE = "recovery"
_WAIT_SECONDS = 120.0
_GOALS = {
    ("rabbitmq", "worker killed, its task begun again"): (99, 3.0),
    ("rabbitmq", "broker up, first task done"): (100, 10.0),
    ("redis", "broker up, first task done"): (100, 10.0),
}


class Supervised:
    """A worker that is started again at once when it ends."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._environment = environment
        self._log = log
        self._is_wanted = True
        self._process = self._start()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def kill(self) -> float:
        """End its main process with SIGKILL; returns when, on the monotonic clock."""
        killed_at = time.monotonic()
        self._process.kill()
        return killed_at

    def close(self) -> None:
        self._is_wanted = False
        self._process.kill()
        self._thread.join()

    def _start(self) -> subprocess.Popen[bytes]:
        command = ["celery", "-A", "tests.chaos.patient", "worker", "--without-mingle", "-c", "1"]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", *command],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _watch(self) -> None:
        while True:
            self._process.wait()
            if not self._is_wanted:
                return
            self._process = self._start()


class Field:
    """A broker, a queue on it, and a worker that writes down when it begins what."""

    def __init__(self, folder: Path, broker: RabbitMQ | Redis) -> None:
        self.broker = broker
        self._begun = folder / "begun"
        self._begun.touch()
        self._service = Service(
            Settings(env="test", celery_broker_url=broker.url, celery_default_queue=QUEUE)
        )
        self.app: App = create_celery_app(self._service)
        self.worker = Supervised(
            {
                "PATH": os.environ["PATH"],
                "APP_ENV": "test",
                "APP_METRICS_PORT": "0",
                "CELERY_BROKER_URL": broker.url,
                "CELERY_DEFAULT_QUEUE": QUEUE,
                BEGUN: str(self._begun),
            },
            folder / "log",
        )

    def send(self, key: str, *, seconds: float = 0.0) -> None:
        """Send the task *key*, as soon as the broker takes it."""
        arguments = (key, seconds)
        _wait(lambda: self.app.send_task("patient", arguments, task_id=key))

    def begun(self, key: str, *, times: int = 1) -> float:
        """Wait until the task *key* was begun so many times; return when that was."""
        return _wait(lambda: self._begun_at(key)[times - 1 :])[0]

    def _begun_at(self, key: str) -> list[float]:
        lines = (line.split() for line in self._begun.read_text().splitlines())
        return [float(at) for name, at in lines if name == key]

    def close(self) -> None:
        self.worker.close()
        self._service.lifecycle.stop()


def after_kills(field: Field, count: int) -> Iterator[float]:
    """Kill the worker *count* times; yield how long its task then waited, in seconds."""
    for number in range(count):
        key = f"kill-{number}"
        field.send(key, seconds=600)
        field.begun(key)
        killed_at = field.worker.kill()
        yield field.begun(key, times=2) - killed_at


def after_outages(field: Field, count: int, *, seconds: float = 2.0) -> Iterator[float]:
    """Kill the broker *count* times; yield how long the first task waited once it was back."""
    for number in range(count):
        field.send(f"before-{number}")
        field.begun(f"before-{number}")
        field.broker.kill()
        time.sleep(seconds)
        field.broker.start()
        back_at = time.monotonic()
        field.send(f"after-{number}")
        yield field.begun(f"after-{number}") - back_at


def _wait(check: Callable[[], T]) -> T:
    return eventually(check, timeout_seconds=_WAIT_SECONDS, every_seconds=0.01)


def percentile(figures: Sequence[float], percent: int) -> float:
    """Return the figure that *percent* of all are not above (nearest rank)."""
    rank = max(math.ceil(len(figures) * percent / 100), 1)
    return sorted(figures)[rank - 1]


@contextmanager
def opened(name: str) -> Iterator[Field]:
    """Open a field on a private broker."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mainstay-recovery-")))
        broker: RabbitMQ | Redis = RabbitMQ() if name == "rabbitmq" else Redis()
        stack.enter_context(broker)
        field = Field(folder, broker)
        stack.callback(field.close)
        yield field


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for; 0 when every goal is met."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.recovery", description=__doc__)
    parser.add_argument("--broker", choices=("rabbitmq", "redis"), action="append")
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--outages", type=int, default=10)
    asked = parser.parse_args(arguments)
    is_good = True
    for name in asked.broker or ("rabbitmq", "redis"):
        with opened(name) as field:
            rounds = {
                "worker killed, its task begun again": after_kills(field, asked.kills),
                "broker up, first task done": after_outages(field, asked.outages),
            }
            for what, measured in rounds.items():
                is_good &= _told(name, what, list(measured))
    return 0 if is_good else 1


def _told(name: str, what: str, figures: list[float]) -> bool:
    if not figures:
        return True
    percent, goal = _GOALS.get((name, what), (100, math.inf))
    is_good = percentile(figures, percent) <= goal
    wanted = "" if goal == math.inf else f" goal p{percent}<={goal:g}"
    load = os.getloadavg()[0]
    sys.stdout.write(
        f"{'ok ' if is_good else 'BAD'} {name:8s} {what}: n={len(figures)} "
        f"p50={statistics.median(figures):.2f} p99={percentile(figures, 99):.2f} "
        f"max={max(figures):.2f} s{wanted} (load {load:.1f})\n"
    )
    sys.stdout.flush()
    return is_good


if __name__ == "__main__":
    guard()
    raise SystemExit(main())
