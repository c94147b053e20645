"""How long is it from the start of a process to its first answer, and how much does it hold then?

Here the wall is what counts: nobody waits for a processor. The files are in the cache of the
system, as they are when a process is started again.
"""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import OURS, PEERS, Environment
from benchmarks.items import ANSWER
from benchmarks.load import HOST, request
from benchmarks.programs import LaneFailed, Program, program
from benchmarks.row import OURS_LANE, Figure, Lane, Row, Sample, at_most
from benchmarks.serving import Server, command
from mainstay.testing.ports import steady_port

_BARE = "bare FastAPI"
_TIME = Figure("time", "ms/{unit}", lambda sample: sample.wall_seconds / sample.units * 1e3)
_MEMORY = Figure.other("memory", "MiB")
_ASKED = request("/items/42?detail=true", headers=("connection: close",))
_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.001


@dataclass(frozen=True)
class _Starts:
    """A lane: an application that is served, asked once, and ended.

    Args:
        server: What serves it; ``None`` is `mainstay run`.
    """

    app: str
    folder: Path
    server: Server | None = "uvicorn"
    environment: Environment = OURS
    variables: Mapping[str, str] | None = None

    def round(self, units: int) -> Sample:
        """Start it *units* times, one after the other."""
        wall = cpu = memory = 0.0
        for _ in range(units):
            port = steady_port()
            began = time.perf_counter()
            with program(
                command(self.app, port, self.server),
                output=self.folder / "server.log",
                environment=self.environment,
                variables=self.variables,
            ) as running:
                _wait_for_answer(running, port)
                wall += time.perf_counter() - began
                cpu += running.cpu_seconds()
                memory += running.memory_bytes()
        return Sample(units, cpu, wall, {"memory": memory / units / 2**20})


def _wait_for_answer(running: Program, port: int) -> None:
    until = time.perf_counter() + _PATIENCE_SECONDS
    while True:
        with (
            suppress(ConnectionError),
            socket.create_connection((HOST, port), timeout=_PATIENCE_SECONDS) as connection,
        ):
            connection.sendall(_ASKED)
            with connection.makefile("rb") as file:
                answer = file.read()
            if ANSWER not in answer:
                raise LaneFailed(f"a wrong answer: {answer[:2000]!r}")
            return
        running.check()
        if time.perf_counter() > until:
            raise LaneFailed(f"no server came up:\n{running.last_lines()}")
        time.sleep(_POLL_SECONDS)


@contextmanager
def _lanes() -> Iterator[Sequence[Lane]]:
    with tempfile.TemporaryDirectory(prefix="mainstay-bench-") as name:
        folder = Path(name)
        settings = {
            "APP_AUTH_REQUIRED": "false",
            "APP_RATE_LIMIT": "none",
            "APP_DRAIN_DELAY_SECONDS": "0",  # it is ended many times
        }
        ours = _Starts("benchmarks.lanes.http_chassis:app", folder, None, variables=settings)
        bare = _Starts("benchmarks.lanes.http_bare:app", folder)
        usual = _Starts("benchmarks.peers.http_usual:app", folder, environment=PEERS)
        yield [
            Lane(OURS_LANE, ours.round, ("fastapi", "uvicorn", "pydantic")),
            Lane(_BARE, bare.round),
            Lane(
                "usual stack",
                usual.round,
                ("asgi-correlation-id", "prometheus-fastapi-instrumentator", "structlog"),
                PEERS,
            ),
        ]


ROW = Row(
    "cold_start",
    "FastAPI: from the start of the process to the first answer, and its memory then",
    unit="start",
    units=5,
    goals=(at_most(1.1, times=_BARE, of=_TIME), at_most(5, over=_BARE, of=_MEMORY)),
    lanes=_lanes,
    warm_up=1,
)
