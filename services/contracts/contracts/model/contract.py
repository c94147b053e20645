"""A contract, as it is kept."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import DateTime, Index, Numeric, String, Text, Uuid, func
from sqlalchemy.orm import Mapped, mapped_column

from contracts.model.base import Base

__all__ = ["AMOUNT_DIGITS", "AMOUNT_PLACES", "NAME_LENGTH", "Contract"]

NAME_LENGTH = 255
# As many as a number of JSON keeps, wherever it is read (RFC 8259, section 6).
AMOUNT_DIGITS, AMOUNT_PLACES = 15, 3


class Contract(Base):
    """One contract, and how far it is.

    Its status is what the last step that is done has made it; that a step has failed is known of
    the workflow alone, because who ends a step's worker asks nobody to write it down here.
    """

    __tablename__ = "contracts"
    __table_args__ = (Index("ix_contracts_newest", "created_at", "id"),)

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    title: Mapped[str] = mapped_column(String(NAME_LENGTH))
    customer: Mapped[str] = mapped_column(String(NAME_LENGTH))
    amount: Mapped[Decimal] = mapped_column(Numeric(AMOUNT_DIGITS, AMOUNT_PLACES))
    currency: Mapped[str] = mapped_column(String(3))
    status: Mapped[str] = mapped_column(String(16))
    workflow_id: Mapped[str] = mapped_column(String(64), unique=True)
    document: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.current_timestamp()
    )
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True),
        server_default=func.current_timestamp(),
        onupdate=func.current_timestamp(),
    )
