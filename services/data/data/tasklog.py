"""The log of calls and tasks: a row for the start and a row for the end of each."""

from __future__ import annotations

from sqlalchemy.orm import Session

from data import queries
from data.service import service
from mainstay.context import current


def log(
    session: Session,
    task_id: str,
    queue_name: str,
    task_type: str,
    description: str | None,
    status: str,
) -> None:
    """Write a row about the work at hand."""
    context = current()
    session.execute(
        queries.log_entry(
            task_id=task_id,
            correlation_id=context.correlation_id if context else "",
            queue_name=queue_name,
            service_name=service.name,
            task_type=task_type,
            description=description,
            status=status,
        )
    )
