"""Connection pools that let the next waiting caller connect when a connect fails.

SQLAlchemy's own connects before the connection has its place in the pool. When that fails, nothing
wakes the callers that wait because all places were taken: they wait until their time is over,
although no connection is in use. Here the place is taken first. It is empty until its first caller
has connected, and goes back to the pool when that fails; the next caller then connects.

The class of a place is private to SQLAlchemy: `make test-versions` shows whether the oldest and the
newest version still have it.
"""

from __future__ import annotations

from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, QueuePool
from sqlalchemy.pool.base import _ConnectionRecord
from typing_extensions import override

__all__ = ["AsyncPool", "Pool"]


class Pool(QueuePool):
    """The pool of blocking code."""

    # `echo_pool` and log levels are set on SQLAlchemy's logger names, which come from the module of
    # the class.
    __module__ = QueuePool.__module__

    @override
    def _create_connection(self) -> ConnectionPoolEntry:
        return _ConnectionRecord(self, connect=False)


class AsyncPool(AsyncAdaptedQueuePool):
    """The pool of one event loop."""

    __module__ = QueuePool.__module__

    @override
    def _create_connection(self) -> ConnectionPoolEntry:
        return _ConnectionRecord(self, connect=False)
