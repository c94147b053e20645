"""How does one statement after another reach the database, and no pool in between?"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from mainstay.errors import Retry
from mainstay.resources.sqlalchemy.database import Database
from mainstay.resources.sqlalchemy.failures import translated

__all__ = ["Kept"]

T = TypeVar("T")


class Kept:
    """One connection, kept from one statement to the next; each of them stands for itself.

    For what a worker on PostgreSQL writes down of each task: to take a connection out of the
    pool, to ask whether it is still there and to put it back would be more work than the statement
    is. One that has broken is noticed by the statement itself, which is then done on another: it
    must bear to be done twice.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def run(self, do: Callable[[Connection], T]) -> T:
        """Return what *do* does with a connection.

        Raises:
            Retry: The database does not answer, or not now.
        """
        if self._lock.acquire(blocking=False):  # else another thread of this process has it
            try:
                if self._connection is None:
                    self._connection = self._database.apart()
                with translated():
                    return do(self._connection)
            except Retry:
                if self._connection is None or not self._connection.invalidated:
                    raise
            finally:
                self._let_go_of_broken()
                self._lock.release()
        with self._database.autocommit() as connection:
            return do(connection)

    def close(self) -> None:
        """Let go of the connection; it is opened again when it is needed again."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError):
                connection.close()

    def _let_go_of_broken(self) -> None:
        if self._connection is not None and self._connection.invalidated:
            with suppress(SQLAlchemyError):
                self._connection.close()
            self._connection = None
