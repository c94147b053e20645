"""The table of the orders that are taken."""

from __future__ import annotations

from uuid import UUID, uuid4

from sqlalchemy import Text, Uuid
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.lanes.orders import Order

__all__ = ["Base", "OrderRow"]


class Base(DeclarativeBase):
    pass


class OrderRow(Base):
    __tablename__ = "orders"
    __table_args__ = {"schema": "public"}  # noqa: RUF012 - SQLAlchemy reads it as it is

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    sku: Mapped[str] = mapped_column(Text)
    count: Mapped[int]
    customer: Mapped[str] = mapped_column(Text)

    @classmethod
    def of(cls, order: Order) -> OrderRow:
        return cls(id=uuid4(), sku=order.sku, count=order.count, customer=order.customer)
