"""The worker: normalizes records, one by one or as a batch that tells how far it is."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from books.records import normalize
from books.service import service
from mainstay.tasks.celery import Task, TaskQueue, create_celery_app

CPU, GPU = "cpu", "gpu"

celery_app = create_celery_app(service, queues=(TaskQueue(name=CPU), TaskQueue(name=GPU)))
# What is not named here goes to the default queue; `queue=` in `apply_async` wins over both. A
# worker takes every queue, or those that it is given: celery -A books.worker worker --queues cpu
celery_app.conf.task_routes = {
    "media.thumbnail": {"queue": CPU},
    "media.process_video": {"queue": GPU},
}


@celery_app.task(name="importer.normalize_record")
def normalize_record(record: dict[str, Any]) -> dict[str, Any]:
    """Normalize one record."""
    return normalize(record)


# Fenced for the sake of what it tells: a worker that is overtaken is no longer heard.
@celery_app.task(name="importer.process_batch_with_progress", bind=True, fenced=True)
def process_batch_with_progress(
    self: Task, records: list[dict[str, Any]], *, session: Session
) -> dict[str, Any]:
    """Normalize *records*, and tell after each hundredth of them how far it is."""
    total = len(records)
    step = max(total // 100, 1)
    # The worker of an earlier delivery may have told more before it died: that stands.
    status = celery_app.status(self.request.id)
    told = status.meta.get("current", 0) if status else 0
    self.progress(told, total)
    normalized = []
    for current, record in enumerate(records, start=1):
        normalized.append(normalize(record))
        if current > told and (current % step == 0 or current == total):
            self.progress(current, total)
    return {"records": normalized}


@celery_app.task(name="media.thumbnail")
def thumbnail(path: str, width: int = 320) -> dict[str, Any]:
    """A sample of what a processor is for: say what a thumbnail would be called."""
    return {"path": path, "thumbnail": f"{path}.{width}.webp"}


@celery_app.task(name="media.process_video")
def process_video(path: str, codec: str = "av1") -> dict[str, Any]:
    """A sample of what a graphics card is for: say what the video would be called."""
    return {"path": path, "video": f"{path}.{codec}.mp4"}
