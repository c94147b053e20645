"""The HTTP API of the data service: each route hands over to the rules and the queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar
from uuid import uuid4

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlmodel.ext.asyncio.session import AsyncSession
from sqlmodel.sql.expression import SelectOfScalar

from data import operations, queries
from data.models import DataProcessingRecord, TaskLog
from data.schemas import Log, Metrics, ProcessIn, ProcessOut, Record
from data.service import calls, service
from data.tasklog import alogged
from data.worker import celery_app
from data.worker import process as process_task
from mainstay.errors import NotFound, RemoteFailure
from mainstay.http.fastapi import Page, Rows, Work, create_app, idempotent, work
from mainstay.tasks import State, TaskStatus

settings = service.settings
API = f"/{settings.api_primary_path}"

app = create_app(service, title="Data")
router = APIRouter(prefix=API)
KeyedWork = Annotated[Work[AsyncSession], Depends(idempotent)]
PlainWork = Annotated[Work[AsyncSession], Depends(work)]
Filter = Annotated[str | None, Query(max_length=255)]
Shown = TypeVar("Shown", Record, Log)


async def root_path(request: Request) -> str:
    """Return the path that the service is served below."""
    path: str = request.scope.get("root_path", "")
    return path.rstrip("/")


RootPath = Annotated[str, Depends(root_path)]


@app.get("/", tags=["service"])
async def root(below: RootPath) -> dict[str, Any]:
    """Return name, version and links."""
    return {
        "name": service.name,
        "version": settings.version,
        "links": {
            "docs": f"{below}{API}/docs",
            "health": f"{below}/health",
            "metrics": f"{below}/metrics",
        },
    }


@router.post("/data/process", tags=["data"])
async def process(body: ProcessIn, w: KeyedWork, response: Response, below: RootPath) -> ProcessOut:
    """Process the payload now: a call to the data service's server."""
    record_id = uuid4()
    try:
        async with alogged(str(record_id), "sync", body.description):
            outcome = await w.call(settings.data_queue_name, body.model_dump())
    except RemoteFailure as error:
        outcome = operations.failure(error.type, error.detail)
    record = DataProcessingRecord(
        id=record_id,
        payload=body.payload,
        description=body.description,
        task_type="sync",
        task_status=queries.status_of(outcome),
        outcome=outcome,
    )
    w.session.add(record)
    response.headers["X-Record-ID"] = str(record_id)
    response.headers["Location"] = f"{below}{API}/database/records/{record_id}"
    return ProcessOut(task_id="-", task_status=queries.status_of(outcome), outcome=outcome)


@router.post("/data/process-async", status_code=202, tags=["data"])
async def process_async(
    body: ProcessIn, w: KeyedWork, response: Response, below: RootPath
) -> ProcessOut:
    """Accept the payload now and process it later: a task, which leaves with its record."""
    task_id = await w.send(process_task, body.payload, body.description)
    w.session.add(
        DataProcessingRecord(
            task_id=task_id,
            payload=body.payload,
            description=body.description,
            task_type="async",
            task_status=queries.PROCESSING,
        )
    )
    response.headers["Location"] = f"{below}{API}/data/process-async/{task_id}"
    return ProcessOut(task_id=task_id, task_status=queries.PROCESSING, outcome=None)


@router.get("/data/process-async/{task_id}", tags=["data"])
async def task_status(task_id: str) -> ProcessOut:
    """Return the status of a task, and its outcome when it has one."""
    status = await celery_app.astatus(task_id)
    if status is None:
        raise NotFound(f"no task was ever given the id {task_id!r}")
    outcome = outcome_of(status)
    return ProcessOut(task_id=task_id, task_status=queries.status_of(outcome), outcome=outcome)


@router.get("/database/records", tags=["database"])
async def records(page: Annotated[Page, Depends()], w: PlainWork) -> Rows[Record]:
    """List the records, newest first."""
    rows = await _rows(w, page, queries.records(), DataProcessingRecord, Record.model_validate)
    await settle(rows.items)
    return rows


@router.get("/database/records/{task_id}", tags=["database"])
async def record(task_id: str, w: PlainWork) -> Record:
    """Show one record, by its own id or by its task's."""
    found = (await w.session.exec(queries.record(task_id))).first()
    if found is None:
        raise NotFound(f"there is no record {task_id!r}")
    shown = Record.model_validate(found)
    await settle([shown])
    return shown


@router.delete("/database/records/{task_id}", status_code=204, tags=["database"])
async def delete_record(task_id: str, w: PlainWork) -> None:
    """Delete one record, by its own id or by its task's."""
    if not (await w.session.exec(queries.delete_record(task_id))).rowcount:
        raise NotFound(f"there is no record {task_id!r}")


@router.get("/database/logs", tags=["database"])
async def logs(
    page: Annotated[Page, Depends()],
    w: PlainWork,
    task_id: Filter = None,
    correlation_id: Filter = None,
) -> Rows[Log]:
    """List the starts and ends of calls, newest first."""
    return await _rows(w, page, queries.logs(task_id, correlation_id), TaskLog, Log.model_validate)


@router.get("/metrics", tags=["service"])
async def metrics() -> Metrics:
    """Return the depth of the queue of calls, and the latency of the last minutes' calls."""
    depth = await calls.adepth(settings.data_queue_name)
    return Metrics.model_validate(
        {
            "data_queue": depth["queue"] or {},
            "data_queue_dlq": depth["dead_letters"] or {},
            "rpc": await calls.statistics.asnapshot(),
        }
    )


async def settle(records: list[Record]) -> None:
    """Fill in the outcome of tasks that failed before they could write it into their record."""
    waiting = {each.task_id: each for each in records if each.task_status == queries.PROCESSING}
    for task_id, status in (await celery_app.astatuses([*filter(None, waiting)])).items():
        record = waiting[task_id]
        record.outcome = outcome_of(status)
        record.task_status = queries.status_of(record.outcome)


def outcome_of(status: TaskStatus) -> dict[str, Any] | None:
    """Return the outcome of a task; ``None`` while it is not finished."""
    if not status.state.is_final:
        return None
    if status.state is State.SUCCESS and status.error is None:
        outcome: dict[str, Any] = status.result
        return outcome
    error = status.error or {"type": status.state.value, "detail": ""}
    return operations.failure(error["type"], error["detail"])


async def _rows(
    w: Work[AsyncSession],
    page: Page,
    statement: SelectOfScalar[queries.Row],
    model: type[queries.Row],
    show: Callable[[queries.Row], Shown],
) -> Rows[Shown]:
    wanted = queries.newest(
        statement, model, limit=page.limit, offset=page.offset, position=page.position
    )
    rows = (await w.session.exec(wanted)).all()
    total = (await w.session.exec(queries.total(statement))).one() if page.count else None
    return page.rows(rows, lambda row: (row.created_at, row.id), show=show, total=total)


app.include_router(router)
