"""Celery's pool of child processes, which gives no task to a second child that the first has begun.

A child that has died is found out in two looks: at the children, when the last words of each dead
one are read, and then at the tasks in hand. One that dies in between has its words read by nobody;
a task that it had said it was beginning would count as not begun, and be begun again.
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
    def on_partial_read(self, job: Any, proc: Any) -> None:
        """*proc*, to which *job* was written, is dead."""
        self.process_flush_queues(proc)
        super().on_partial_read(job, proc)


class TaskPool(prefork.TaskPool):
    """What Celery's worker takes for its pool."""

    Pool = Pool
