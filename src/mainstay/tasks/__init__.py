"""Tasks: work that is accepted now and done later, once, by a worker.

What holds for any queue of tasks is here: their states, where these are kept, and what has become
of a workflow. `tasks.memory` needs nothing installed; `tasks.celery` is the room for RabbitMQ and
Redis.
"""

from mainstay.tasks.status import State, StatusStore, TaskStatus
from mainstay.tasks.workflow import Step, StepState, Workflow, WorkflowState

__all__ = [
    "State",
    "StatusStore",
    "Step",
    "StepState",
    "TaskStatus",
    "Workflow",
    "WorkflowState",
]
