"""The tables of the data service; they never leave it: see schemas.py for what the API shows."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import JSON, Index, Text, func
from sqlmodel import Field, SQLModel

metadata = SQLModel.metadata

# `json`, not `jsonb`: a payload is kept as it came, key order and all.
Json = JSON(none_as_null=False)  # any value: null is one too
OptionalJson = JSON(none_as_null=True)

now = partial(datetime.now, UTC)
# For rows inserted by hand; those of the service have their time already.
_BY_DATABASE = {"server_default": func.current_timestamp()}


class DataProcessingRecord(SQLModel, table=True):
    """One payload that was accepted, and its outcome."""

    __tablename__ = "data_processing_records"
    __table_args__ = (Index("ix_data_processing_records_newest", "created_at", "id"),)

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    task_id: str | None = Field(default=None, max_length=64, unique=True)
    payload: Any = Field(sa_type=Json, nullable=False)
    description: str | None = Field(default=None, sa_type=Text)
    task_type: str = Field(max_length=16)
    task_status: str = Field(max_length=16)
    outcome: dict[str, Any] | None = Field(default=None, sa_type=OptionalJson)
    created_at: datetime = Field(default_factory=now, sa_column_kwargs=_BY_DATABASE)
    updated_at: datetime = Field(
        default_factory=now, sa_column_kwargs={**_BY_DATABASE, "onupdate": now}
    )


class TaskLog(SQLModel, table=True):
    """The start or the end of one call, as its caller saw it."""

    __tablename__ = "task_logs"
    __table_args__ = (
        Index("ix_task_logs_newest", "created_at", "id"),
        Index("ix_task_logs_task_id", "task_id", "created_at"),
        Index("ix_task_logs_correlation_id", "correlation_id", "created_at"),
    )

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    task_id: str = Field(max_length=255)
    correlation_id: str = Field(max_length=128)
    queue_name: str = Field(max_length=255)
    service_name: str = Field(max_length=255)
    task_type: str = Field(max_length=16)
    description: str | None = Field(default=None, sa_type=Text)
    status: str = Field(max_length=16)
    created_at: datetime = Field(default_factory=now, sa_column_kwargs=_BY_DATABASE)
