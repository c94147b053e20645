"""How does a relay hear at once that something waits in the outbox?

Whoever has committed gives notice on a connection of its own, after the commit and never inside
the transaction, where `NOTIFY` would make commits wait for one another: one notice for all that
was committed since the last. A notice that is lost costs a second: relays also look by themselves.
"""

from __future__ import annotations

import os
import select
import threading
import time
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection

from mainstay import forks
from mainstay.resources.sqlalchemy.database import Database, let_go

__all__ = ["Announcer", "Listener"]

_CHANNEL = "mainstay_outbox"
_NOTIFY = (
    f"select set_config('synchronous_commit', 'off', true), pg_notify('{_CHANNEL}', '')".encode()
)
# Between two notices, so that a process that commits all the time does not give one each time.
_PAUSE_SECONDS = 0.002
# While so many commits come between two notices, relays have enough to do.
_BUSY_COMMITS, _BUSY_PAUSE_SECONDS = 3, 0.008
_RETRY_SECONDS = 0.5
_LISTEN_AGAIN_SECONDS = 5.0
_FAREWELL_SECONDS = 1.0


class Announcer:
    """Gives notice to the relays of other processes, from a thread of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._commits = 0
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def announce(self) -> None:
        """Have notice given; returns at once."""
        self._commits += 1
        self._asked.set()
        if self._thread is None:
            self._start()

    def close(self) -> None:
        """Give notice no more. Can be called twice."""
        with self._lock:
            self._is_closed = True
        self._asked.set()
        if self._thread is not None:
            self._thread.join(_FAREWELL_SECONDS)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._run, name="notices", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        connection: Connection | None = None
        while not self._is_closed:
            self._asked.wait()
            self._asked.clear()
            commits, self._commits = self._commits, 0
            try:
                with forks.work():
                    connection = connection or self._database.apart()
                    _notify(connection)
            except Exception:  # noqa: BLE001 - relays look by themselves, so it is not missed
                let_go(connection)
                connection = None
                time.sleep(_RETRY_SECONDS)
            time.sleep(_BUSY_PAUSE_SECONDS if commits >= _BUSY_COMMITS else _PAUSE_SECONDS)
        let_go(connection)


class Listener:
    """Waits for notice, of this process or of others; one thread waits."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_announced = database.engine.dialect.name == "postgresql"
        self._connection: Connection | None = None
        self._connect_at = 0.0
        self._lock = threading.Lock()
        self._is_closed = False
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def wake(self) -> None:
        """Give notice, from any thread of this process."""
        # As many as a pipe holds may not have been heard yet.
        with self._lock, suppress(BlockingIOError):
            if not self._is_closed:  # else the number may be another file's by now
                os.write(self._writer, b"!")

    def wait(self, timeout_seconds: float) -> None:
        """Return when notice was given since the last time, or after *timeout_seconds*."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        if self._connection is not None:
            poll.register(_raw(self._connection).fileno(), select.POLLIN)
        poll.poll(timeout_seconds * 1000)
        with suppress(BlockingIOError):
            os.read(self._reader, 65_536)
        self._hear()

    def listen(self) -> None:
        """Make sure of notice by other processes, as far as can be; before one looks."""
        if self._is_announced and self._connection is None and time.monotonic() > self._connect_at:
            self._connect_at = time.monotonic() + _LISTEN_AGAIN_SECONDS
            with suppress(Exception):
                connection = self._database.apart()
                _raw(connection).execute(f"listen {_CHANNEL}")
                self._connection = connection

    def close(self) -> None:
        """Hear no more; nobody may wait any more. Can be called twice."""
        self._deafen()
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                os.close(self._reader)
                os.close(self._writer)

    def _hear(self) -> None:
        if self._connection is None:
            return
        session = _raw(self._connection).pgconn
        try:
            session.consume_input()
            while session.notifies():
                pass
        except Exception:  # noqa: BLE001 - the server is gone: until it is back, one looks instead
            self._deafen()

    def _deafen(self) -> None:
        connection, self._connection = self._connection, None
        let_go(connection)


def _notify(connection: Connection) -> None:
    """Give notice by one call into libpq: the process has more to do than this.

    It is a transaction of its own, which would wait for the disk like any other.
    """
    result = _raw(connection).pgconn.exec_(_NOTIFY)
    if result.error_message:
        raise RuntimeError("the server took no notice")


def _raw(connection: Connection) -> Any:
    """Return psycopg's connection; it is in autocommit, so its statements take effect at once."""
    return connection.connection.driver_connection
