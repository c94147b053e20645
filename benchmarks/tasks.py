"""Rows about tasks: what a worker, with its child, takes of the processor for each of them.

The sender is another process, and does not count.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from benchmarks.calls import MESSAGING, wait_until_idle
from benchmarks.environments import OURS, Environment
from benchmarks.programs import Program, Worker, program, worker
from benchmarks.row import OURS_LANE, Goal, Lane, Row, Sample
from mainstay.resources.sqlalchemy.migrate import upgrade
from mainstay.testing.otlp import OtlpReceiver
from mainstay.testing.servers import PostgreSQL, RabbitMQ, Redis

__all__ = ["BARE", "Task", "bare", "mainstay", "row"]

BARE = "bare Celery"
_QUIET = {"APP_METRICS_ENABLED": "false", "APP_LOG_LEVEL": "WARNING"}


@dataclass(frozen=True)
class Task:
    """A lane: a task, and the module whose application has it.

    Args:
        name: What the lane is called in the table.
        module: With an ``app``; sends the task that it is given as an argument.
        task: Its name.
        is_quiet: Without metrics, lines and traces, where it has any.
        is_stored: Are results kept by Celery itself, in the database?
    """

    name: str
    module: str
    task: str
    is_quiet: bool = True
    is_stored: bool = False
    packages: tuple[str, ...] = ("celery", "kombu")

    @property
    def environment(self) -> Environment:
        return MESSAGING if self.module.startswith("benchmarks.peers.") else OURS


def mainstay(task: str = "noop", *, name: str = OURS_LANE, is_quiet: bool = True) -> Task:
    return Task(name, "benchmarks.lanes.tasks_mainstay", task, is_quiet)


def bare(task: str = "noop", *, name: str = BARE, is_stored: bool = False) -> Task:
    return Task(name, "benchmarks.peers.tasks_celery", task, is_stored=is_stored)


def row(
    name: str,
    title: str,
    broker: Literal["rabbitmq", "redis"],
    tasks: Sequence[Task],
    goals: Sequence[Goal],
    *,
    has_database: bool = False,
    units: int = 1_500,
) -> Row:
    where = {"rabbitmq": "RabbitMQ, quorum queue", "redis": "Redis"}[broker]
    return Row(
        name,
        f"{title} on {where}",
        unit="task",
        units=units,
        goals=tuple(goals),
        lanes=partial(_lanes, broker, tuple(tasks), has_database),
        warm_up=units // 3,
        environments=(OURS, MESSAGING),
    )


@contextmanager
def _lanes(broker: str, tasks: Sequence[Task], has_database: bool) -> Iterator[Sequence[Lane]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mainstay-bench-")))
        server = stack.enter_context(RabbitMQ() if broker == "rabbitmq" else Redis())
        receiver = stack.enter_context(OtlpReceiver())
        postgres = stack.enter_context(PostgreSQL()) if has_database else None
        lanes = []
        for number, task in enumerate(tasks):
            queue = f"bench-{number}"
            variables = {
                "BENCH_BROKER": server.url,
                "BENCH_QUEUE": queue,
                "BENCH_TOLD": str(folder / f"{queue}.told"),
            }
            if postgres is not None:
                variables["BENCH_DATABASE"] = _database(postgres, f"bench_{number}")
            if task.is_stored:
                url = variables["BENCH_DATABASE"].replace("postgresql:", "postgresql+psycopg:")
                variables["BENCH_RESULTS"] = f"db+{url}"
            if task.is_quiet:
                variables |= _QUIET
            else:
                variables |= {
                    "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
                    "OTEL_TRACES_SAMPLER": "always_off",
                    "OTEL_METRICS_EXPORTER": "none",
                    "OTEL_LOGS_EXPORTER": "none",
                }
            lanes.append(_lane(stack, folder, queue, task, variables))
        yield lanes


def _database(postgres: PostgreSQL, name: str) -> str:
    url = postgres.create_database(name)
    upgrade(url, say=lambda _line: None)
    postgres.sql("create table public.effects (number integer not null)", database=name)
    return url


def _lane(
    stack: ExitStack, folder: Path, queue: str, task: Task, variables: Mapping[str, str]
) -> Lane:
    words = ["--concurrency", "1", "--without-gossip", "--without-mingle"]
    words += ["--hostname", f"{queue}@localhost"]  # two of one name cannot be at one broker
    level = "WARNING" if task.is_quiet else "INFO"
    running = stack.enter_context(
        program(
            ["-m", "celery", "-A", task.module, "worker", *words, "--loglevel", level],
            output=folder / f"{queue}-worker.log",
            environment=task.environment,
            variables=variables,
        )
    )
    wait_until_idle(running)
    sender = stack.enter_context(
        worker(
            task.module,
            task.task,
            output=folder / f"{queue}-sender.log",
            environment=task.environment,
            variables=variables,
        )
    )
    return Lane(task.name, partial(_round, running, sender), task.packages, task.environment)


def _round(running: Program, sender: Worker, units: int) -> Sample:
    before = running.cpu_seconds()
    sample = sender.round(units)
    running.check()
    return Sample(units, running.cpu_seconds() - before, sample.wall_seconds)
