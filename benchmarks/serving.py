"""How is an application of a lane served? By one process of uvicorn, or one worker of granian where
it is a peer's with Flask, with their defaults, but for granian's threads: as many as ours has.

Ours is started by the words with which `mainstay run` starts it. Those differ from the defaults in
what the chassis does itself: no `Server` field, no belief in headers of proxies. The servers' own
access log is off in every lane: it would be a second line a request.
"""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.environments import OURS, PEERS, Environment
from benchmarks.load import HOST, HttpServer
from benchmarks.programs import LaneFailed, Program, program
from benchmarks.row import OURS_LANE, Lane, Sample
from mainstay.http import wsgi
from mainstay.http.bridge import SPARE_THREADS
from mainstay.processes import commands
from mainstay.processes.manifest import ProcessSpec
from mainstay.testing.ports import steady_port
from mainstay.testing.wait import eventually

__all__ = ["Served", "Server", "command", "serving", "wait_for"]

Server = Literal["uvicorn", "granian"]

_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Served:
    """A lane that is a server, and what it is asked.

    Args:
        name: What it is called in the table.
        app: The application, as ``module:attribute``.
        asked: What to ask.
        packages: The distributions whose versions matter.
        holds: What every answer must hold.
        status: What every answer's status must be.
        variables: Its environment variables.
        is_logged: Must there be a line a request? Looked at, so that nobody is let off.
        server: What serves it; ``None`` is `mainstay run`, which our own lane always has.
        proof: Called with its port before it is measured; raises where what it is to do is not
            done.
    """

    name: str
    app: str
    asked: Iterator[bytes]
    packages: tuple[str, ...] = ()
    holds: bytes = b""
    status: int = 200
    variables: Mapping[str, str] = field(default_factory=dict)
    is_logged: bool = True
    server: Server | None = "uvicorn"
    proof: Callable[[int], None] = lambda port: None

    @property
    def environment(self) -> Environment:
        """Peers live among the programs of peers."""
        return PEERS if self.app.startswith("benchmarks.peers.") else OURS


@contextmanager
def serving() -> Iterator[Callable[[Served], Lane]]:
    """Return what makes a lane of what is to be served; all of them end with the block."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mainstay-bench-")))

        def serve(served: Served) -> Lane:
            output = folder / f"{served.name.replace(' ', '-')}.log"
            port = steady_port()
            running = stack.enter_context(
                program(
                    command(served.app, port, _server_of(served)),
                    output=output,
                    environment=served.environment,
                    variables=served.variables,
                )
            )
            wait_for(running, port)
            try:
                served.proof(port)
            except LaneFailed as failure:
                raise LaneFailed(f"{failure}\n{running.last_lines()}") from failure
            server = HttpServer(
                running, port, served.asked, status=served.status, holds=served.holds
            )

            def logged(units: int) -> Sample:
                before = _lines(output)
                sample = server.round(units)
                if served.is_logged:  # the line comes after the answer
                    eventually(lambda: _lines(output) - before >= units)
                return sample

            return Lane(served.name, logged, served.packages, served.environment)

        yield serve


def command(app: str, port: int, server: Server | None) -> list[str]:
    """Return what follows ``python`` to serve *app*; without a *server*, as `mainstay run` does."""
    place = ["--host", HOST, "--port", str(port)]
    if server == "uvicorn":
        return ["-m", "uvicorn", app, *place, "--no-access-log"]
    if server == "granian":
        # As many requests may wait for others at a time: threads cost, too.
        threads = str(wsgi.IN_FLIGHT_LIMIT + SPARE_THREADS)
        words = ["--interface", "wsgi", "--no-access-log", "--blocking-threads", threads]
        return ["-m", "granian", app, *place, *words]
    process = ProcessSpec("bench", "api", "http", target=app, port=port)
    words = list(commands.command(process, host=HOST, grace_seconds=5.0, alone=True))
    return words[1:]


def _server_of(served: Served) -> Server | None:
    return None if served.name == OURS_LANE else served.server


def _lines(output: Path) -> int:
    with output.open("rb") as file:
        return sum(1 for _ in file)


def wait_for(running: Program, port: int) -> None:
    """Return when a server accepts connections.

    Raises:
        LaneFailed: It has ended, or does not within a minute.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        running.check()
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise LaneFailed(f"no server came up:\n{running.last_lines()}") from None
            time.sleep(_POLL_SECONDS)
        else:
            return
