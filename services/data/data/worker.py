"""The worker: processes payloads that may take their time."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from data import operations, queries
from data.service import database, service
from data.tasklog import log
from mainstay.tasks.celery import Task, create_celery_app

celery_app = create_celery_app(service)


@celery_app.task(name="data.process", bind=True, once=True)
def process(
    self: Task, payload: Any, description: str | None, *, session: Session
) -> dict[str, Any]:
    """Process *payload*; its record and the end in its log are written together, or not at all."""
    queue = self.request.delivery_info["routing_key"]
    with database.session() as beginning:  # seen also when the rest is never written
        log(beginning, self.request.id, queue, "task", description, "started")
    outcome = operations.process(payload, description)
    session.execute(queries.finish(self.request.id, outcome))
    log(session, self.request.id, queue, "task", description, "done")
    return outcome
