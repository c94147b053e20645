"""Serve a WSGI application with granian, and lead a service's life around each of its workers.

Granian says nothing to an application of its life, and stops at once on SIGTERM. So the service
begins when a worker loads it, and ends when the worker does; and SIGTERM is taken over in the main
process: the workers drain first (not ready, `Connection: close` on every answer) and go on
accepting for `drain_delay_seconds`, and then granian stops. A second SIGTERM, and SIGINT, stop at
once.

``python -m mainstay.http.granian books.app:app --port 8001`` is what `mainstay run` starts.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import FrameType
from typing import TYPE_CHECKING, Any

from mainstay.extras import require
from mainstay.http import wsgi

require("granian", extra="flask")

from granian import Granian  # noqa: E402 - the check stands first
from granian.constants import Interfaces  # noqa: E402 - likewise
from granian.http import HTTP1Settings  # noqa: E402 - likewise
from granian.log import LogLevels  # noqa: E402 - likewise

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

__all__ = ["load", "main", "serve"]

SPARE_THREADS = 4
"""More than requests in hand take, so that who asks how the process is always finds one."""

HEAD_LIMIT_BYTES = 65_536
HEAD_SECONDS = 10.0
"""For a connection to become a request."""

PARENT_LOOK_SECONDS = 0.2
"""Between two looks at whether the main process still lives, once it is time to drain."""

# What granian writes goes where the service's lines go, in their form.
_LOGGING: dict[str, Any] = {
    "formatters": {},
    "handlers": {},
    "loggers": {"_granian": {"propagate": True}, "granian.access": {"propagate": False}},
}


def main(arguments: Sequence[str]) -> int:
    """Serve what *arguments* name until it is told to stop; return the exit code."""
    parser = argparse.ArgumentParser("python -m mainstay.http.granian", description=__doc__)
    parser.add_argument("target", help="module:attribute, an application or what makes one")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, help="of each worker; 4 more than may be in hand")
    parser.add_argument("--backlog", type=int, default=1024, help="connections that may wait")
    parser.add_argument("--grace", type=float, help="seconds; the service's by default")
    asked = parser.parse_args(arguments)
    return serve(
        asked.target,
        host=asked.host,
        port=asked.port,
        workers=asked.workers,
        threads=asked.threads,
        backlog=asked.backlog,
        grace_seconds=asked.grace,
    )


def serve(
    target: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    threads: int | None = None,
    backlog: int = 1024,
    grace_seconds: float | None = None,
) -> int:
    """Serve *target* until a signal says to stop.

    Args:
        target: ``module:attribute``: a WSGI application, or what makes one.
        threads: Of each worker; by default as many as requests may be in hand, and some to spare.
        backlog: Connections that may wait for a worker.
        grace_seconds: How long requests in hand may take once it is told to stop;
            `grace_seconds` of the service by default.
    """
    edge = _edge_of(load(target))
    in_hand, delay_seconds, grace = wsgi.IN_FLIGHT_LIMIT, 0.0, 25.0
    if edge is not None:
        settings = edge.service.settings
        in_hand = edge.rules.in_flight_limit
        delay_seconds, grace = settings.drain_delay_seconds, settings.grace_seconds
        edge.service.logs.install()
    # Its advice is for those who have not counted.
    logging.getLogger("_granian").addFilter(lambda line: "Python threads" not in line.getMessage())
    server = Granian(
        target,
        address=host,
        port=port,
        interface=Interfaces.WSGI,
        workers=workers,
        blocking_threads=in_hand + SPARE_THREADS if threads is None else threads,
        backlog=backlog,
        websockets=False,
        http1_settings=HTTP1Settings(
            header_read_timeout=int(HEAD_SECONDS * 1000), max_buffer_size=HEAD_LIMIT_BYTES
        ),
        log_level=LogLevels.warning,
        log_dictconfig=_LOGGING,
        respawn_failed_workers=True,
        workers_kill_timeout=max(1, round(grace if grace_seconds is None else grace_seconds)),
    )
    # Its end is the word to drain: every worker waits for it, however the main process goes.
    draining, leading = Pipe(duplex=False)
    server.on_startup(partial(_take_over_sigterm, leading, delay_seconds))
    server.serve(target_loader=partial(_work, draining, leading, os.getpid()))
    return 0


def load(target: str) -> WSGIApplication:
    """Return the application at ``module:attribute``, made if need be."""
    module, _, path = target.partition(":")
    found: Any = import_module(module)
    for name in (path or "app").split("."):
        found = getattr(found, name)
    application: WSGIApplication = found() if _takes_nothing(found) else found
    return application


def _takes_nothing(found: Callable[..., Any]) -> bool:
    """Does it make an application, instead of being one?"""
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(
        one.default is not inspect.Parameter.empty or one.kind in optional
        for one in inspect.signature(found).parameters.values()
    )


def _work(draining: Connection, leading: Connection, main: int, target: str) -> WSGIApplication:
    """Load the application in a worker, and begin its service's life there."""
    # What the main process made of it; until granian's worker has its own, it ends nothing here.
    inherited = signal.getsignal(signal.SIGTERM)
    if os.getpid() != main:
        leading.close()  # or nobody would hear when the main process closes it
    application = load(target)
    edge = _edge_of(application)
    if edge is not None:
        edge.begin()
        life = partial(_live, edge, draining, main, inherited)
        threading.Thread(target=life, name="life").start()
    return application


def _live(edge: wsgi.Edge, draining: Connection, main: int, inherited: object) -> None:
    service = edge.service
    try:
        draining.recv_bytes()
    except (EOFError, OSError):
        service.lifecycle.drain()
    # Granian's worker returns from its main thread when the last request has been answered.
    worker = threading.main_thread()
    # A process that was killed closes its files before its children have another parent, and it
    # may be killed while they drain: so this looks more than once.
    while worker.is_alive() and (
        main in (os.getpid(), os.getppid()) or signal.getsignal(signal.SIGTERM) is inherited
    ):
        worker.join(PARENT_LOOK_SECONDS)
    if worker.is_alive():
        # Nobody else will say it; once, because a worker of granian that is told again may freeze.
        os.kill(os.getpid(), signal.SIGTERM)
        worker.join(service.settings.grace_seconds)
    service.stop()
    if worker.is_alive():
        os._exit(1)  # nor will anybody kill it


def _take_over_sigterm(leading: Connection, delay_seconds: float) -> None:
    stop = signal.getsignal(signal.SIGTERM)
    if not callable(stop):
        return

    def on_alarm(number: int, frame: FrameType | None) -> None:
        stop(signal.SIGTERM, frame)

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        if leading.closed:
            stop(number, frame)
            return
        leading.close()
        # A timer of the process' own: in a signal handler nothing may be locked.
        signal.setitimer(signal.ITIMER_REAL, max(delay_seconds, 0.001))

    signal.signal(signal.SIGALRM, on_alarm)
    signal.signal(signal.SIGTERM, on_sigterm)


def _edge_of(application: object) -> wsgi.Edge | None:
    edge = getattr(application, "stations", None)
    return edge if isinstance(edge, wsgi.Edge) else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
