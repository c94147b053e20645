"""What the data service's API takes and gives."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from data.operations import INTEGER_LIMIT

Status = Literal["Processing", "Success", "Failure"]


def _fits(payload: JsonValue) -> JsonValue:
    pending = [payload]
    while pending:
        match pending.pop():
            case bool() | str() | float() | None:
                pass
            case int() as number if not -INTEGER_LIMIT <= number < INTEGER_LIMIT:
                raise ValueError("an integer must fit into 64 bits")
            case list() as items:
                pending += items
            case dict() as members:
                pending += members.values()
    return payload


class ProcessIn(BaseModel):
    """A payload, and what is to be done with it."""

    model_config = ConfigDict(extra="forbid")

    payload: Annotated[JsonValue, AfterValidator(_fits)] = Field(description="Any JSON value.")
    description: str | None = Field(
        None,
        max_length=10_000,
        description="The operation: uppercase, reverse, square, double, sort.",
    )


class ProcessOut(BaseModel):
    """Where the work stands."""

    task_id: str
    task_status: Status
    outcome: dict[str, Any] | None


class Record(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    task_id: str | None
    payload: JsonValue
    description: str | None
    task_type: str
    task_status: Status
    outcome: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime


class Log(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    task_id: str
    correlation_id: str
    queue_name: str
    service_name: str
    task_type: str
    description: str | None
    status: str
    created_at: datetime


class Depth(BaseModel):
    """How many messages a queue holds; null where the broker cannot be asked."""

    messages: int | None = None
    messages_ready: int | None = None
    messages_unacknowledged: int | None = None


class Latency(BaseModel):
    """Of the calls of the last five minutes, in seconds."""

    count: int
    avg: float | None
    p50: float | None
    p95: float | None


class Calls(BaseModel):
    latency: Latency
    timeouts_total: int


class Metrics(BaseModel):
    """Depth of the queue and of its dead letters, and how the calls went."""

    data_queue: Depth
    data_queue_dlq: Depth
    rpc: Calls
