"""What the books service's API takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NotRequired, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StrictBool, StrictInt
from typing_extensions import TypedDict

# The largest integer that every reader of JSON gives back as it was (RFC 8259, section 6).
INTEGER_LIMIT = 2**53
MOST_RECORDS = 10_000

Id = Annotated[int, Field(ge=1, lt=INTEGER_LIMIT)]
ShortText = Annotated[str, Field(max_length=255)]
LongText = Annotated[str, Field(max_length=2000)]
Row = TypeVar("Row")


class Body(BaseModel):
    """What is sent: a field that nobody knows is a mistake."""

    model_config = ConfigDict(extra="forbid")


class Shown(BaseModel):
    """What is shown of a row."""

    model_config = ConfigDict(from_attributes=True)


class GroupFields(Body):
    name: ShortText | None = None
    comment: LongText | None = None


class GroupIn(GroupFields):
    id: Id


class GroupOut(Shown):
    id: int
    name: str | None
    comment: str | None


class TypeIn(Body):
    id: Id
    file_name: ShortText | None = None
    comments: LongText | None = None
    group_id: Id


class TypeFields(Body):
    file_name: ShortText | None = None
    comments: LongText | None = None
    group_id: Id | None = None


class TypeOut(Shown):
    id: int
    file_name: str | None
    comments: str | None
    group_id: int


class Listing(BaseModel, Generic[Row]):
    """Rows in the order of their ids, and how many there are in all."""

    items: list[Row]
    total: int


@dataclass(frozen=True, slots=True)
class Part:
    """Which rows are asked for, in the query: all, where it says nothing."""

    limit: Annotated[int, Field(ge=1, le=500)] | None = None
    offset: Annotated[int, Field(ge=0, lt=INTEGER_LIMIT)] = 0


class Health(BaseModel):
    """How the process is, and each thing that it holds open."""

    status: Literal["healthy", "degraded", "unhealthy"]
    service: str
    version: str
    checks: dict[str, dict[str, Any]]


class DbStatus(BaseModel):
    """The database answers, and how soon."""

    status: Literal["ok"] = "ok"
    latency_ms: float


def _fits(value: JsonValue) -> JsonValue:
    pending = [value]
    while pending:
        match pending.pop():
            case bool() | str() | float() | None:
                pass
            case int() as number if not -INTEGER_LIMIT < number < INTEGER_LIMIT:
                raise ValueError("an integer must be below 2^53, or it does not come back as it is")
            case list() as items:
                pending += items
            case dict() as members:
                pending += members.values()
    return value


class Record(Body):
    """One record of a source, by the id that it has there."""

    id: Annotated[StrictInt, Field(gt=-INTEGER_LIMIT, lt=INTEGER_LIMIT)] | ShortText
    payload: Annotated[JsonValue, AfterValidator(_fits)] = Field(description="Any JSON value.")


Records = Annotated[list[Record], Field(max_length=MOST_RECORDS)]


class IngestIn(Body):
    source: Annotated[ShortText, Field(description="Where the records come from.")]
    enqueue: StrictBool = Field(False, description="Answer at once, and work on them later.")
    records: Records


class Enqueued(TypedDict):
    """One record under way; with eager execution it is done, and here is what came out."""

    id: int | str
    task_id: str
    result: NotRequired[Record]


class Processed(BaseModel):
    status: Literal["processed"] = "processed"
    source: str
    records: list[Record]


class Queued(BaseModel):
    status: Literal["queued"] = "queued"
    source: str
    queue: str
    tasks: list[Enqueued]


class ProgressIn(Body):
    records: Records


class ProgressOut(BaseModel):
    status: Literal["queued"] = "queued"
    task_id: str
    status_url: str
    queue: str


StateName = Literal["PENDING", "STARTED", "PROGRESS", "RETRY", "SUCCESS", "FAILURE", "REVOKED"]


class Meta(TypedDict):
    """How far a task is, in records and in percent."""

    current: int
    total: int
    progress: float


class Failure(TypedDict):
    type: str
    detail: str


class StatusOut(TypedDict):
    """Where a task is; at its end with what came out, or with what it failed of."""

    task_id: str
    state: StateName
    meta: Meta
    result: NotRequired[Any]
    error: NotRequired[Failure]
