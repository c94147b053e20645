"""Processes, while they are told to stop in every way there is, and while they migrate together."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import psycopg

from mainstay.resources.sqlalchemy import migrate
from tests.chaos.callers import Callers
from tests.chaos.clients import Clients
from tests.chaos.processes import Process
from tests.chaos.scenarios.catalogue import scenario
from tests.chaos.senders import Senders
from tests.chaos.stage import Stage
from tests.chaos.waiting import LIMIT_SECONDS, until

_MIGRATING = Path(__file__).parents[1] / "subject" / "migrating"
_WAITS = "another process is changing the schema"
_TERM, _INT, _HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
# With which exit codes a process may leave that has work in hand. A second signal may come when all
# of that is done, and the process is no more than a Python that comes to its end.
_WAYS: dict[str, tuple[tuple[signal.Signals, ...], set[int]]] = {
    "SIGTERM": ((_TERM,), {0}),
    "SIGTERM twice": ((_TERM, _TERM), {0, -_TERM}),
    "SIGINT": ((_INT,), {0}),
    "SIGINT twice": ((_INT, _INT), {0, -_INT}),
    "SIGHUP": ((_HUP,), {0}),
}


@scenario(92, "processes are told to stop: early, once, twice, and by other signals")
def processes_are_told_to_stop(stage: Stage) -> None:
    senders, callers = Senders(stage), Callers(stage)
    api, worker, callee = stage.api(), stage.worker(), stage.callee()
    with ThreadPoolExecutor() as pool, ThreadPoolExecutor(64) as clients:
        played = [
            pool.submit(_Ends(stage, process, clients, work).play)
            for process, work in (
                (api, lambda: asyncio.run(_order(stage, api))),
                (worker, lambda: senders.send(seconds=0.5)),
                (callee, lambda: callers.call(seconds=0.5)),
            )
        ]
        for each in played:
            each.result()


async def _order(stage: Stage, api: Process) -> None:
    async with Clients(stage, api) as clients:
        await clients.order(stage.ledger.submit(), seconds=0.5)


class _Ends:
    """All the ways in which one process is told to stop.

    Args:
        process: It has just been started.
        clients: Where *work* is done, which may take until the process has been started again.
        work: Gives it some, and waits for the end of that.
    """

    def __init__(
        self, stage: Stage, process: Process, clients: Executor, work: Callable[[], object]
    ) -> None:
        self._stage = stage
        self._process = process
        self._clients = clients
        self._work = work
        self._given: list[Future[object]] = []
        ways = list(_WAYS)
        self._ways = stage.random.sample(ways, k=stage.pick(short=1, full=len(ways)))
        self._moments = [stage.random.uniform(0.0, 1.5) for _ in range(2)]

    def play(self) -> None:
        # Before it is up it is ended as any program is, or stops as it does when it is.
        time.sleep(self._moments[0])
        self._tell("SIGTERM early", (_TERM,), {0, -_TERM})
        for way in self._ways:
            self._process.start().ready()
            self._given += (self._clients.submit(self._work) for _ in range(4))
            until(self._is_at_work)
            self._tell(way, *_WAYS[way])
        self._process.start()
        for each in self._given:
            each.result()

    def _tell(self, way: str, signals: Sequence[signal.Signals], codes: set[int]) -> None:
        pid = self._process.pid
        code = self._process.tell(*signals, pause_seconds=self._moments[1] / 5)
        self._stage.fault(way)
        assert code in codes, f"{self._process.name} left with {code} after {way}"
        until(lambda: not Process.left_by(pid))

    def _is_at_work(self) -> bool:
        pids = {self._process.pid, *self._process.children}
        return any(execution.pid in pids for execution in self._stage.ledger.begun())


@scenario(
    90,
    "replicas migrate at once, and the one that does it is killed",
    on=("redis",),
    keeps_books=False,
)
def replicas_migrate(stage: Stage) -> None:
    url = stage.create_database("migrated")
    api = stage.api(DATABASE_URL=url)
    until(lambda: api.status("/healthz") == 200)
    assert api.status("/ready") == 503, "ready without a schema"
    with ExitStack() as stack:
        replicas = [
            stack.enter_context(_Replica(stage, f"replica-{number}", url))
            for number in range(stage.pick(short=4, full=10))
        ]
        at_it = until(lambda: [one for one in replicas if "applied first" in one.said])
        until(lambda: any(_WAITS in one.said for one in replicas))
        at_it[0].kill()
        stage.fault("replica killed")
        stage.open_gate()
        codes = [one.wait() for one in replicas]
    assert sorted(codes) == [-signal.SIGKILL] + [0] * (len(replicas) - 1), codes
    did = sum("applied second" in one.said for one in replicas)
    waited = sum(_WAITS in one.said for one in replicas)
    assert did == 1, f"{did} replicas did it"
    assert all(position.is_at_head for position in migrate.current(url, _MIGRATING))
    with psycopg.connect(url) as connection:
        rows = connection.execute("select count(*), count(note) from migrated").fetchone()
    assert rows == (1, 0), f"the first migration was done {rows} times"
    api.ready()
    stage.figures |= {"replicas": len(replicas), "waited": waited}


class _Replica:
    """A process that brings the schema up to date, as each replica of a service may do first."""

    def __init__(self, stage: Stage, name: str, url: str) -> None:
        self._log = stage.folder / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mainstay", "db", "upgrade"],
                cwd=_MIGRATING,
                env={
                    "PATH": os.environ["PATH"],
                    **stage.environment(DATABASE_URL=url, CHAOS_GATE=stage.gate),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> int:
        return self._process.wait(LIMIT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
