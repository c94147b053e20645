"""The server of calls: takes payloads from the queue and answers with outcomes."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from data import operations
from data.schemas import ProcessIn
from data.service import database, service
from data.tasklog import log
from mainstay.errors import FieldError, Invalid
from mainstay.rpc import Call, run


class DataService:
    """Answers ``call({"payload": …, "description": …})`` with an outcome."""

    def call(self, data: Any) -> dict[str, Any]:
        try:
            asked = ProcessIn.model_validate(data)
        except ValidationError as error:
            raise Invalid(
                "the call does not fit: it needs a payload, and may have a description",
                errors=[
                    FieldError("/" + "/".join(str(part) for part in one["loc"]), one["msg"])
                    for one in error.errors(include_input=False)
                ],
            ) from error
        return operations.process(asked.payload, asked.description)


def note(call: Call, status: str) -> None:
    """Write a row of the task log, in a transaction of its own."""
    description = call.data.get("description") if isinstance(call.data, dict) else None
    with database.session() as session:
        log(session, call.id, call.queue, "call", description, status)


def main() -> int:
    """Serve until told to stop; returns the exit code."""
    return run(
        service,
        queue=service.settings.data_queue_name,
        target=DataService(),
        concurrency=service.settings.rpc_concurrency,
        on_start=lambda call: note(call, "started"),
        on_end=note,
    )
