"""The class of every step."""

from __future__ import annotations

from typing import Any, cast

from typing_extensions import override

from contracts.config.celery_settings import Settings
from mainstay.context import CORRELATION_ID, TRACEPARENT, Context, use
from mainstay.tasks.celery import Task

__all__ = ["Step"]


class Step(Task):
    """A task that also says when it begins; how it ends is said of every task.

    What becomes of it is known to its workflow: each of its turns is the status of its task.
    """

    abstract = True

    @property
    def settings(self) -> Settings:
        return cast(Settings, self.app.service.settings)

    @override
    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        # The task has not passed the stations yet, which will know what it came with.
        came_with = {name: self.request.get(name) or "" for name in (CORRELATION_ID, TRACEPARENT)}
        with use(Context.extract(came_with)):
            self.app.service.logs.write(
                "info",
                "contracts.worker",
                f"{self.name} begins",
                event="task_started",
                name=self.name,
                task_id=task_id,
                attempt=int(self.request.retries or 0) + 1,
            )
