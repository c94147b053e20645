"""Rows about calls: who asks whom, over which broker, and how many at a time.

A lane is a caller that does rounds when it is asked, and the server that answers it; the CPU is
that of both.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.environments import OURS, Environment, peers
from benchmarks.programs import LaneFailed, Program, program, worker
from benchmarks.row import OURS_LANE, Goal, Lane, Row
from mainstay.testing.servers import RabbitMQ, Redis

__all__ = ["MESSAGING", "Pair", "mainstay", "row", "wait_until_idle"]

MESSAGING = peers("messaging")

_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.1
_IDLE_POLLS = 10


@dataclass(frozen=True)
class Pair:
    """A caller and its server.

    Args:
        name: What the lane is called in the table.
        module: Of ``lanes/`` or ``peers/``: serves with ``server``, else calls in a mode.
        mode: How it calls: ``one`` by one, with 64 ``futures`` or ``threads``; from asyncio by one
            ``task`` or 64 ``tasks``.
        packages: The distributions whose versions matter.
    """

    name: str
    module: str
    mode: str
    packages: tuple[str, ...] = ()

    @property
    def environment(self) -> Environment:
        """Peers live among the programs of peers."""
        return MESSAGING if self.module.startswith("benchmarks.peers.") else OURS


def mainstay(mode: str) -> Pair:
    """Return the library's own lane."""
    return Pair(OURS_LANE, "benchmarks.lanes.calls_mainstay", mode)


def row(
    name: str,
    title: str,
    pairs: Sequence[Pair],
    goals: Sequence[Goal],
    *,
    units: int,
    queue_type: str = "",
) -> Row:
    """Return a row about calls over RabbitMQ, or over Redis where no *queue_type* is named."""
    return Row(
        name,
        title,
        unit="call",
        units=units,
        goals=tuple(goals),
        lanes=partial(_lanes, tuple(pairs), queue_type),
        warm_up=units // 4,
        environments=tuple({pair.environment.name: pair.environment for pair in pairs}.values()),
    )


@contextmanager
def _lanes(pairs: Sequence[Pair], queue_type: str) -> Iterator[Sequence[Lane]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mainstay-bench-")))
        broker = stack.enter_context(RabbitMQ() if queue_type else Redis())
        yield [
            _lane(stack, folder, pair, {"BENCH_URL": broker.url, "BENCH_QUEUE_TYPE": queue_type})
            for pair in pairs
        ]


def _lane(stack: ExitStack, folder: Path, pair: Pair, variables: dict[str, str]) -> Lane:
    queue = pair.name.replace(" ", "-")
    variables = {**variables, "BENCH_QUEUE": queue}
    server = stack.enter_context(
        program(
            ["-m", pair.module, "server"],
            output=folder / f"{queue}-server.log",
            environment=pair.environment,
            variables=variables,
        )
    )
    wait_until_idle(server)
    caller = stack.enter_context(
        worker(
            pair.module,
            pair.mode,
            output=folder / f"{queue}-caller.log",
            environment=pair.environment,
            variables=variables,
            servers=[server],
        )
    )
    return Lane(pair.name, caller.round, pair.packages, pair.environment)


def wait_until_idle(server: Program) -> None:
    """Return when *server* waits for calls: not all of them say that they do.

    Raises:
        LaneFailed: It has ended, or is at work for a minute.
    """
    until = time.monotonic() + _PATIENCE_SECONDS
    polls, before = 0, -1.0
    while polls < _IDLE_POLLS:
        server.check()
        if time.monotonic() > until:
            raise LaneFailed(f"a server does not come to rest:\n{server.last_lines()}")
        time.sleep(_POLL_SECONDS)
        now = server.cpu_seconds()
        polls = polls + 1 if now - before < _POLL_SECONDS / 10 and not _is_running(server) else 0
        before = now


def _is_running(server: Program) -> bool:
    return Path(f"/proc/{server.pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"R"
