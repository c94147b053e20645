"""The server of calls: takes payloads from the queue and answers with outcomes."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from data import operations
from data.schemas import ProcessIn
from data.service import service
from mainstay.errors import FieldError, Invalid
from mainstay.rpc import run


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


def main() -> int:
    """Serve until the process is stopped; return the exit code."""
    return run(
        service,
        queue=service.settings.data_queue_name,
        target=DataService(),
        concurrency=service.settings.rpc_concurrency,
    )
