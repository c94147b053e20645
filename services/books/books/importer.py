"""The JSON API of the importer: records are normalized at once, or later by the worker."""

from __future__ import annotations

from typing import Annotated

from flask import Blueprint, url_for

from books.records import normalize
from books.schemas import (
    Enqueued,
    IngestIn,
    Meta,
    Processed,
    ProgressIn,
    ProgressOut,
    Queued,
    Record,
    StateName,
    StatusOut,
)
from books.service import service
from books.worker import celery_app, normalize_record, process_batch_with_progress
from mainstay.errors import NotFound
from mainstay.http.flask import Work, idempotent, operation
from mainstay.tasks import State, TaskStatus

blueprint = Blueprint("importer", __name__)
KeyedWork = Annotated[Work, idempotent]

# What Celery calls the states, which is what clients of importers know.
_STATES: dict[State, StateName] = {
    State.WAITING: "PENDING",
    State.STARTED: "STARTED",
    State.PROGRESS: "PROGRESS",
    State.RETRYING: "RETRY",
    State.LOST: "PENDING",  # until it is sent again
    State.SUCCESS: "SUCCESS",
    State.FAILURE: "FAILURE",
    State.REVOKED: "REVOKED",
}


@blueprint.post("/ingest")
@operation(tags=["importer"], responses={202: Queued})
def ingest(body: IngestIn, w: KeyedWork) -> Processed | tuple[Queued, int]:
    """Normalize records: now, or each as a task of its own, which leave together or not at all."""
    if not body.enqueue:
        records = [Record(**normalize(record.model_dump())) for record in body.records]
        return Processed(source=body.source, records=records)
    tasks = [_enqueue(w, record) for record in body.records]
    return Queued(source=body.source, queue=_queue(), tasks=tasks), 202


@blueprint.post("/progress")
@operation(status=202, tags=["importer"])
def progress(body: ProgressIn, w: KeyedWork) -> tuple[ProgressOut, dict[str, str]]:
    """Normalize records as one task, which tells how far it is."""
    records = [record.model_dump() for record in body.records]
    task_id = w.send(process_batch_with_progress, records)
    where = url_for("importer.status", task_id=task_id)
    told = ProgressOut(task_id=task_id, status_url=where, queue=_queue())
    return told, {"Location": where}


@blueprint.get("/status/<task_id>")
@operation(tags=["importer"])
def status(task_id: str) -> StatusOut:
    """Tell how far a task is."""
    found = celery_app.status(task_id)
    if found is None:
        raise NotFound(f"no task was ever given the id {task_id!r}")
    return _shown(found)


def _enqueue(w: Work, record: Record) -> Enqueued:
    sent = record.model_dump()
    if service.settings.celery_task_always_eager:
        done = normalize_record.apply_async([sent])
        return {"id": record.id, "task_id": done.id, "result": Record(**done.get())}
    return {"id": record.id, "task_id": w.send(normalize_record, sent)}


def _queue() -> str:
    return service.settings.celery_default_queue


def _shown(status: TaskStatus) -> StatusOut:
    shown: StatusOut = {
        "task_id": status.id,
        "state": _STATES[status.state],
        "meta": _meta(status),
    }
    if status.state is State.SUCCESS:
        shown["result"] = status.result
    if status.error is not None:
        shown["error"] = {"type": status.error["type"], "detail": status.error["detail"]}
    return shown


def _meta(status: TaskStatus) -> Meta:
    """Of a task that tells nothing on its way only its end is known."""
    done = status.state is State.SUCCESS
    total = status.meta.get("total", int(done))
    current = total if done else status.meta.get("current", 0)
    progress = round(100 * current / total, 1) if total else 100.0 * done
    return {"current": current, "total": total, "progress": progress}
