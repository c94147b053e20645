"""Serve an application over a real socket, on a free port, for as long as a test needs it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import uvicorn

from mainstay.http.bridge import Bridge
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
            timeout_graceful_shutdown=5,
            **{"proxy_headers": False, **options},
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


def served_wsgi(app: Any, *, threads: int = 64, **options: Any) -> AbstractContextManager[int]:
    """Serve a WSGI application, as :func:`served`."""
    return served(Bridge(app, threads=threads), **options)


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
