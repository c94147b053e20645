"""Tasks: work that is accepted now and done later, once, by a worker.

What holds for any queue of tasks is here: their states and where these are kept. `tasks.memory`
needs nothing installed; `tasks.celery` is the room for RabbitMQ and Redis.
"""

from mainstay.tasks.status import State, StatusStore, TaskStatus

__all__ = ["State", "StatusStore", "TaskStatus"]
