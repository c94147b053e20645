"""Celery's pool of child processes, which gives no task to a second child that the first has begun.

A child that has died is found out in two looks: at the children, when the last words of each dead
one are read, and then at the tasks in hand. One that dies in between has its words read by nobody;
a task that it had said it was beginning would count as not begun, and be begun again.

Nor does it lose a task to a file descriptor. Celery keeps the number of the pipe from which it read
the results of a child that has died under a task, and reads from that number again after a
reconnect. By then it may be the pipe through which another child receives its tasks: the worker
reads the task back itself, keeps it reserved, and no child ever starts it.
"""

from __future__ import annotations

from typing import Any

from celery.concurrency import prefork
from celery.concurrency.asynpool import AsynPool
from typing_extensions import override

__all__ = ["Pool", "TaskPool"]


class Pool(AsynPool):
    """The children, and what passes between them and their worker."""

    @override
    def register_with_event_loop(self, hub: Any) -> None:
        # Called after each reconnect: it would read from the pipes of children that are gone too.
        for fd, proc in list(self._fileno_to_outq.items()):
            if proc not in self._pool:
                del self._fileno_to_outq[fd]
        super().register_with_event_loop(hub)

    @override
    def on_partial_read(self, job: Any, proc: Any) -> None:
        """*proc*, to which *job* was written, is dead."""
        self.process_flush_queues(proc)
        super().on_partial_read(job, proc)


class TaskPool(prefork.TaskPool):
    """What Celery's worker takes for its pool."""

    Pool = Pool
