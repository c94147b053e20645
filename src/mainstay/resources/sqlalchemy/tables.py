"""Which tables does Mainstay keep in a service's database, beside the service's own?

On PostgreSQL they live in a schema of their own, ``mainstay``; SQLite has no schemas, so there
their names begin with ``mainstay_``. Migrations make them; what is written here is what the
newest one leaves, and ``mainstay db check`` compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from types import MappingProxyType
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    text,
)
from typing_extensions import override

__all__ = [
    "OF_CELERY",
    "SCHEMA",
    "Moment",
    "json_type",
    "metadata",
    "name_of",
    "names",
    "schema_of",
    "table",
]

SCHEMA = "mainstay"
OF_CELERY = ("celery_taskmeta", "celery_tasksetmeta")
"""What Celery makes by itself in a database that is its result backend: no migration's concern."""

_NAMES = (
    *("inbox", "outbox", "idempotency_keys", "dead_letters", "task_status"),
    *("workflows", "workflow_steps", "schedule", "task_markers", "revisions"),
)


class Moment(TypeDecorator[datetime]):
    """A point in time, in UTC; SQLite, which has no such type, keeps it as text."""

    impl = DateTime(timezone=True)
    cache_ok = True

    @override
    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    @override
    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def json_type() -> JSON:
    """Return the type of a JSON column.

    Not ``jsonb``: that refuses texts with a NUL in them, which any JSON from outside may hold.
    """
    return JSON(none_as_null=True)


def schema_of(dialect: str) -> str | None:
    """Return the schema that holds the tables; ``None`` where there are no schemas."""
    return SCHEMA if dialect == "postgresql" else None


def name_of(name: str, dialect: str) -> str:
    """Return the name of one of Mainstay's tables, without its schema."""
    return name if schema_of(dialect) else f"{SCHEMA}_{name}"


def names(dialect: str) -> dict[str, str]:
    """Return the name to write into a statement for each table."""
    dot = "." if schema_of(dialect) else "_"
    return {name: f"{SCHEMA}{dot}{name}" for name in _NAMES}


def table(name: str, dialect: str) -> Table:
    """Return one of Mainstay's tables, as the newest migration leaves it."""
    schema = schema_of(dialect)
    return metadata(dialect).tables[f"{schema}.{name}" if schema else name_of(name, dialect)]


OUTBOX_INDEXES: Mapping[tuple[str, ...], str] = MappingProxyType(
    {
        ("kind", "due_at", "position"): "published_at is null",
        ("key", "position"): "published_at is null and key is not null",
        ("published_at",): "published_at is not null",
    }
)
"""The columns, and of which rows: what waits is found at once, however much has left. Messages
are looked for in the order of the first. The order of positions alone is also that of the primary
key, and PostgreSQL has then been seen to go through all that has left before it came to what waits.
"""


OPEN_TASKS = "finished_at is null and state <> 'lost'"
"""The rows of tasks that have not ended and are not lost."""


def index(table: str, columns: tuple[str, ...], where: str | None = None) -> Index:
    """Return an index as Mainstay's tables have them, of the rows *where* that is so."""
    rows = None if where is None else text(where)
    name = f"ix_{table}_{'_'.join(columns)}"
    return Index(name, *columns, postgresql_where=rows, sqlite_where=rows)


@cache
def metadata(dialect: str) -> MetaData:
    """Return all of them as they are on that kind of database."""
    made = MetaData(schema=schema_of(dialect))

    def add(
        name: str,
        *columns: Column[Any],
        indexed: tuple[tuple[str, ...], ...],
        where: Mapping[tuple[str, ...], str] = MappingProxyType({}),
    ) -> None:
        whole = name_of(name, dialect)
        indexes = [index(whole, each, where.get(each)) for each in indexed]
        Table(whole, made, *columns, *indexes)

    add(
        "inbox",
        Column("id", String(255), primary_key=True),
        Column("epoch", Integer, nullable=False),
        Column("claimed_at", Moment, nullable=False),
        Column("done_at", Moment),
        indexed=(("claimed_at",),),
    )
    add(
        "outbox",
        Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
        Column("id", String(255), nullable=False),
        Column("kind", String(16), nullable=False),
        Column("name", String(255), nullable=False),
        Column("destination", String(255), nullable=False),
        Column("key", String(255)),
        Column("headers", json_type(), nullable=False),
        Column("route", json_type(), nullable=False),
        Column("body", LargeBinary, nullable=False),
        Column("token", Text),
        Column("attempts", Integer, nullable=False),
        Column("created_at", Moment, nullable=False),
        Column("due_at", Moment, nullable=False),
        Column("published_at", Moment),
        Column("unrouted", Integer, nullable=False, server_default="0"),
        indexed=tuple(OUTBOX_INDEXES),
        where=OUTBOX_INDEXES,
    )
    add(
        "idempotency_keys",
        Column("scope", String(64), primary_key=True),
        Column("operation", Text, nullable=False),
        Column("fingerprint", LargeBinary, nullable=False),
        Column("owner", String(32), nullable=False),
        Column("epoch", Integer, nullable=False),
        Column("lease_until", Moment, nullable=False),
        Column("created_at", Moment, nullable=False),
        Column("expires_at", Moment, nullable=False),
        Column("done_at", Moment),
        Column("status", SmallInteger),
        Column("headers", json_type()),
        Column("body", LargeBinary),
        indexed=(("expires_at",),),
    )
    add(
        "dead_letters",
        Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
        Column("id", String(255), nullable=False),
        Column("kind", String(16), nullable=False),
        Column("queue", String(255), nullable=False),
        Column("name", String(255), nullable=False),
        Column("reason", String(255), nullable=False),
        Column("detail", Text, nullable=False),
        Column("died_at", Moment, nullable=False),
        Column("headers", json_type(), nullable=False),
        Column("body", LargeBinary, nullable=False),
        Column("envelope", LargeBinary, nullable=False),
        indexed=(("queue", "position"), ("died_at",)),
    )
    add(
        "task_status",
        Column("task_id", String(255), primary_key=True),
        Column("name", String(255), nullable=False),
        Column("queue", String(255), nullable=False),
        Column("state", String(16), nullable=False),
        Column("progress", json_type()),
        Column("result", json_type()),
        Column("error", json_type()),
        Column("attempts", Integer, nullable=False),
        Column("epoch", Integer, nullable=False),
        Column("worker", String(255)),
        Column("correlation_id", String(128)),
        Column("created_at", Moment, nullable=False),
        Column("started_at", Moment),
        Column("finished_at", Moment),
        Column("updated_at", Moment, nullable=False),
        Column("accounted_at", Moment),
        Column("message", Text),
        indexed=(
            ("created_at", "task_id"),
            ("state", "created_at", "task_id"),
            ("finished_at",),
            ("queue", "accounted_at"),
        ),
        where={("queue", "accounted_at"): OPEN_TASKS},
    )
    add(
        "task_markers",
        Column("id", String(255), primary_key=True),
        Column("queue", String(255), nullable=False),
        Column("sent_at", Moment, nullable=False),
        Column("taken_at", Moment),
        indexed=(("queue", "sent_at"),),
    )
    add(
        "workflows",
        Column("id", String(255), primary_key=True),
        Column("name", String(255), nullable=False),
        Column("correlation_id", String(128)),
        Column("created_at", Moment, nullable=False),
        Column("updated_at", Moment, nullable=False),
        indexed=(("created_at", "id"),),
    )
    add(
        "workflow_steps",
        Column("task_id", String(255), primary_key=True),
        Column("workflow_id", String(255), nullable=False),
        Column("position", Integer, nullable=False),
        Column("name", String(255), nullable=False),
        Column("signature", Text, nullable=False),
        Column("needs", json_type(), nullable=False),
        Column("takes", json_type()),
        Column("following", json_type(), nullable=False),
        Column("waits_for", Integer, nullable=False),
        Column("attempts_before", Integer, nullable=False),
        Column("retries", Integer, nullable=False, server_default="0"),
        Column("letters_due_at", Moment),
        indexed=(("workflow_id", "position"), ("letters_due_at",)),
        where={("letters_due_at",): "letters_due_at is not null"},
    )
    add(
        "schedule",
        Column("name", String(255), primary_key=True),
        Column("ticked_at", Moment, nullable=False),
        indexed=(),
    )
    add(
        "revisions",
        Column("version_table", String(255), primary_key=True),
        Column("revision", String(255), primary_key=True),
        indexed=(),
    )
    return made
