"""The settings of a service that lists its queues of tasks.

class Settings(CelerySettings):
    celery_default_queue: str = "contracts"
    task_queues = (
        TaskQueue(name="contracts"),
        TaskQueue(
            name="urgent",
            kind="classic",
            classic_because="tasks have priorities",
            max_priority=9,
            max_length=10_000,
        ),
    )
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from mainstay.config import Settings
from mainstay.tasks.celery.queues import TaskQueue

__all__ = ["CelerySettings"]


class CelerySettings(Settings):
    """Settings with the service's queues; the default queue is made as any other where it is not
    among them.
    """

    task_queues: ClassVar[Sequence[TaskQueue]] = ()
