"""The embedded servers of one project, for as long as ``mainstay dev`` runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from mainstay.embedded import Postgres, Server, Valkey
from mainstay.errors import MainstayError
from mainstay.processes import leash

__all__ = ["Servers", "forget_servers"]

_WATCH_SECONDS = 0.5


class Servers:
    """Starts what is needed, all at once, and starts again what ends.

    Args:
        state: The project's state folder.
        held: Ends the servers when this process is gone.
        note: Told in a line of text what happens.
        postgres: Is PostgreSQL needed?
        valkey: Is Valkey needed?
    """

    def __init__(
        self,
        state: Path,
        *,
        held: leash.Leash,
        note: Callable[[str], None],
        postgres: bool,
        valkey: bool,
    ) -> None:
        def hold(group: int) -> None:
            held.hold(group, leash.SERVERS)

        release = held.release
        self.postgres = (
            Postgres(state / "postgres", note=note, hold=hold, release=release)
            if postgres
            else None
        )
        self.valkey = (
            Valkey(state / "valkey", note=note, hold=hold, release=release) if valkey else None
        )
        self._note = note
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._starting: list[Future[None]] = []

    @property
    def all(self) -> list[Server]:
        return [server for server in (self.postgres, self.valkey) if server is not None]

    def start(self, databases: Iterable[str]) -> None:
        """Start the servers and create *databases* where they are missing.

        Raises:
            Misconfigured: This platform cannot run one; the message says what to set.
            Unavailable: One does not come up.
        """
        if not self.all:
            return
        with ThreadPoolExecutor(len(self.all)) as pool:
            for server in self.all:
                self._starting.append(pool.submit(server.start))
        for each in self._starting:
            each.result()
        if self.postgres is not None:
            for name in databases:
                self.postgres.create_database(name)
        threading.Thread(target=self._keep_running, name="servers", daemon=True).start()

    def stop(self) -> None:
        """Stop all servers, at once; may be called twice."""
        self._stopped.set()
        wait(self._starting)  # who is interrupted half-way through the start is waited for
        if not self.all:
            return
        with self._lock, ThreadPoolExecutor(len(self.all)) as pool:
            for server in self.all:
                pool.submit(server.stop)

    def _keep_running(self) -> None:
        while not self._stopped.wait(_WATCH_SECONDS):
            for server in self.all:
                with self._lock:
                    if not self._stopped.is_set() and not server.is_running():
                        self._start_again(server)

    def _start_again(self, server: Server) -> None:
        self._note(f"{server.title} has ended; starting it again")
        server.stop()  # it has left its group and its place on the leash
        try:
            server.start()
        except MainstayError as error:
            self._note(str(error))


def forget_servers(state: Path) -> None:
    """Stop servers that an earlier run has left, and what they keep outside *state*."""
    valkey, postgres = Valkey(state / "valkey"), Postgres(state / "postgres")
    if valkey.folder.exists():
        valkey.stop_left_running()
    if postgres.folder.exists():
        postgres.stop_left_running()
        postgres.erase()
