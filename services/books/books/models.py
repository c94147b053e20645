"""The tables of the books service; they never leave it: see schemas.py for what the API shows."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, Index, MetaData, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA = "tbc"


class Base(DeclarativeBase):
    metadata = MetaData(schema=SCHEMA)


class Group(Base):
    """A group of book files."""

    __tablename__ = "books_files_groups"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str | None] = mapped_column(String(255))
    comment: Mapped[str | None] = mapped_column(String(2000))


class Type(Base):
    """A type of book files, in a group."""

    __tablename__ = "books_files_types"
    __table_args__ = (Index("ix_books_files_types_group_id", "group_id"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    file_name: Mapped[str | None] = mapped_column(String(255))
    comments: Mapped[str | None] = mapped_column(String(2000))
    group_id: Mapped[int] = mapped_column(ForeignKey(Group.id))
