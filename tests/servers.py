"""Serve an application over a real socket, on a free port, for as long as a test needs it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from granian.constants import Interfaces
from granian.log import LogLevels
from granian.server import common as granian_common
from granian.server.mt import MTServer

from mainstay.processes.ports import steady_port
from tests.waiting import PATIENCE_SECONDS, join

__all__ = ["exchange", "read_all", "served", "served_wsgi"]


@contextmanager
def served(app: Any, **options: Any) -> Iterator[int]:
    """Run uvicorn in a thread and give its port; it has shut down cleanly at the end."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_graceful_shutdown=5,
            **options,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        ends = time.monotonic() + PATIENCE_SECONDS
        while not server.started:
            if time.monotonic() > ends or not thread.is_alive():
                raise RuntimeError("the server did not start")
            time.sleep(0.005)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            join(thread)


@contextmanager
def served_wsgi(app: Any, *, threads: int = 64) -> Iterator[int]:
    """Run granian on threads of this process and give its port, as :func:`served`."""
    port = steady_port()
    server: Any = _Threads(
        "app",
        address="127.0.0.1",
        port=port,
        interface=Interfaces.WSGI,
        blocking_threads=threads,
        log_level=LogLevels.critical,
    )
    serving = {"target_loader": lambda: app, "wrap_loader": False}
    thread = threading.Thread(target=server.serve, kwargs=serving, daemon=True)
    thread.start()
    ends = time.monotonic() + PATIENCE_SECONDS
    while not _listens(port):
        if time.monotonic() > ends or not thread.is_alive():
            raise RuntimeError("the server did not start")
        time.sleep(0.005)
    try:
        yield port
    finally:
        server.signal_handler_interrupt()
        join(thread)


class _Threads(MTServer):
    """Granian's workers as threads, which it offers where there is no global lock; with one they
    are slow, and all the same for a test. Signals are left alone.
    """

    def _check_gil(self) -> None:
        pass

    def startup(self, spawn_target: Any, target_loader: Any) -> None:
        common: Any = granian_common
        taken, common.set_main_signals = common.set_main_signals, lambda *_: None
        try:
            super().startup(spawn_target, target_loader)  # type: ignore[no-untyped-call]  # not typed inside
        finally:
            common.set_main_signals = taken


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def exchange(port: int, request: bytes, *, timeout_seconds: float = PATIENCE_SECONDS) -> bytes:
    """Send bytes as they are and return all that comes until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_seconds) as connection:
        connection.sendall(request)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes, or goes silent for the timeout."""
    received = b""
    try:
        while chunk := connection.recv(65_536):
            received += chunk
    except (TimeoutError, ConnectionResetError):
        pass
    return received
