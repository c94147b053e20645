"""What gunicorn needs to know of a service, as its configuration.

::

    gunicorn --config python:mainstay.http.gunicorn --bind 0.0.0.0:8001 books.app:app

Each worker begins the service's life when it has loaded the application, and ends it when it goes.
SIGTERM is taken over in the worker: it drains first (not ready, `Connection: close` on every
answer) and goes on accepting for `drain_delay_seconds`, and then stops as gunicorn does. Anything
set on the command line wins; without this configuration a service begins with its first request
and stops without draining.
"""

from __future__ import annotations

import signal
import threading
from queue import SimpleQueue
from types import FrameType
from typing import Any

from mainstay.http import wsgi

__all__ = [
    "graceful_timeout",
    "loglevel",
    "post_worker_init",
    "threads",
    "worker_class",
    "worker_exit",
]

worker_class = "gthread"
threads = wsgi.IN_FLIGHT_LIMIT + 4
loglevel = "warning"
graceful_timeout = 30
"""`drain_delay_seconds` and `grace_seconds` together; say so where the settings say otherwise."""


def post_worker_init(worker: Any) -> None:
    """Begin the service's life in *worker*, in whose process this is called."""
    edge = _edge_of(worker)
    if edge is None:
        return
    edge.begin()
    _drain_on_sigterm(worker, edge)


def worker_exit(server: Any, worker: Any) -> None:
    """End it."""
    edge = _edge_of(worker)
    if edge is not None and edge.has_begun:
        edge.service.stop()


def _drain_on_sigterm(worker: Any, edge: wsgi.Edge) -> None:
    stop = signal.getsignal(signal.SIGTERM)
    if not callable(stop):
        return
    asked: SimpleQueue[None] = SimpleQueue()

    def drain() -> None:
        asked.get()
        # It leaves the header to nobody else: without keep-alive it says `Connection: close`.
        worker.cfg.set("keepalive", 0)
        edge.service.lifecycle.drain()

    def on_alarm(number: int, frame: FrameType | None) -> None:
        stop(signal.SIGTERM, frame)

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        if edge.draining.is_set():
            stop(number, frame)
            return
        # In a signal handler nothing may be locked: a thread and a timer do the rest.
        asked.put(None)
        delay_seconds = edge.service.settings.drain_delay_seconds
        signal.setitimer(signal.ITIMER_REAL, max(delay_seconds, 0.001))

    threading.Thread(target=drain, name="drain", daemon=True).start()
    signal.signal(signal.SIGALRM, on_alarm)
    signal.signal(signal.SIGTERM, on_sigterm)


def _edge_of(worker: Any) -> wsgi.Edge | None:
    edge = getattr(getattr(worker, "wsgi", None), "stations", None)
    return edge if isinstance(edge, wsgi.Edge) else None
