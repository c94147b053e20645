"""The tables of the data service; they never leave it: see schemas.py for what the API shows."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, DateTime, Index, String, Text, Uuid, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# `json`, not `jsonb`: a payload is kept as it came, key order and all.
Json = JSON(none_as_null=False)  # any value: null is one too
OptionalJson = JSON(none_as_null=True)


class Base(DeclarativeBase):
    pass


class DataProcessingRecord(Base):
    """One payload that was accepted, and what became of it."""

    __tablename__ = "data_processing_records"
    __table_args__ = (Index("ix_data_processing_records_newest", "created_at", "id"),)

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    task_id: Mapped[str | None] = mapped_column(String(64), unique=True)
    payload: Mapped[Any] = mapped_column(Json, nullable=False)
    description: Mapped[str | None] = mapped_column(Text)
    task_type: Mapped[str] = mapped_column(String(16))
    task_status: Mapped[str] = mapped_column(String(16))
    outcome: Mapped[dict[str, Any] | None] = mapped_column(OptionalJson)
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.current_timestamp()
    )
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True),
        server_default=func.current_timestamp(),
        onupdate=func.current_timestamp(),
    )


class TaskLog(Base):
    """The start or the end of one call or task."""

    __tablename__ = "task_logs"
    __table_args__ = (
        Index("ix_task_logs_newest", "created_at", "id"),
        Index("ix_task_logs_task_id", "task_id", "created_at"),
        Index("ix_task_logs_correlation_id", "correlation_id", "created_at"),
    )

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    task_id: Mapped[str] = mapped_column(String(255))
    correlation_id: Mapped[str] = mapped_column(String(128))
    queue_name: Mapped[str] = mapped_column(String(255))
    service_name: Mapped[str] = mapped_column(String(255))
    task_type: Mapped[str] = mapped_column(String(16))
    description: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.current_timestamp()
    )
