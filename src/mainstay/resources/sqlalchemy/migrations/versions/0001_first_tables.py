"""Inbox, idempotency keys, dead letters and task status."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from mainstay.resources.sqlalchemy.tables import Moment, json_type, name_of, schema_of

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create(
        "inbox",
        sa.Column("id", sa.String(255), primary_key=True),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("claimed_at", Moment, nullable=False),
        sa.Column("done_at", Moment),
        indexed=[["claimed_at"]],
    )
    _create(
        "idempotency_keys",
        sa.Column("scope", sa.String(64), primary_key=True),
        sa.Column("operation", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("owner", sa.String(32), nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("lease_until", Moment, nullable=False),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("expires_at", Moment, nullable=False),
        sa.Column("done_at", Moment),
        sa.Column("status", sa.SmallInteger),
        sa.Column("headers", json_type()),
        sa.Column("body", sa.LargeBinary),
        indexed=[["expires_at"]],
    )
    _create(
        "dead_letters",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("queue", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("reason", sa.String(255), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("died_at", Moment, nullable=False),
        sa.Column("headers", json_type(), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        indexed=[["queue", "position"], ["died_at"]],
    )
    _create(
        "task_status",
        sa.Column("task_id", sa.String(255), primary_key=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("queue", sa.String(255), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("progress", json_type()),
        sa.Column("result", json_type()),
        sa.Column("error", json_type()),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(255)),
        sa.Column("correlation_id", sa.String(128)),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("started_at", Moment),
        sa.Column("finished_at", Moment),
        sa.Column("updated_at", Moment, nullable=False),
        indexed=[["created_at", "task_id"], ["state", "created_at", "task_id"], ["finished_at"]],
    )


def downgrade() -> None:
    dialect = op.get_context().dialect.name
    for name in ("task_status", "dead_letters", "idempotency_keys", "inbox"):
        op.drop_table(name_of(name, dialect), schema=schema_of(dialect))


def _create(name: str, *columns: sa.Column[Any], indexed: list[list[str]]) -> None:
    dialect = op.get_context().dialect.name
    table, schema = name_of(name, dialect), schema_of(dialect)
    op.create_table(table, *columns, schema=schema)
    for each in indexed:
        op.create_index(f"ix_{table}_{'_'.join(each)}", table, each, schema=schema)
