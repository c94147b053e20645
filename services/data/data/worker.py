"""The worker: has payloads processed that may take their time."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session

from data import operations, queries
from data.service import calls, service
from data.tasklog import logged
from mainstay.errors import RemoteFailure
from mainstay.tasks.celery import Task, create_celery_app

celery_app = create_celery_app(service)


# `fenced`, not `once`: no transaction is open while the server works. A call that finds no server,
# or no answer in time, is a passing failure: the task is tried again.
@celery_app.task(name="data.process", bind=True, fenced=True)
def process(
    self: Task, payload: Any, description: str | None, *, session: Session
) -> dict[str, Any]:
    """Call the data service's server, as the API does, and write the outcome into the record."""
    task_id = self.request.id
    body = {"payload": payload, "description": description}
    outcome: dict[str, Any]
    try:
        with logged(task_id, "async", description):
            outcome = calls.call(service.settings.data_queue_name, body, id=task_id)
    except RemoteFailure as error:
        outcome = operations.failure(error.type, error.detail)
    session.exec(queries.finish(task_id, outcome))
    return outcome
