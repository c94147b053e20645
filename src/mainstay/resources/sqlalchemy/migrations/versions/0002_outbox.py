"""Outbox."""

import sqlalchemy as sa
from alembic import op

from mainstay.resources.sqlalchemy.tables import Moment, json_type, name_of, schema_of

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    table, schema = name_of("outbox", dialect), schema_of(dialect)
    op.create_table(
        table,
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("destination", sa.String(255), nullable=False),
        sa.Column("key", sa.String(255)),
        sa.Column("headers", json_type(), nullable=False),
        sa.Column("route", json_type(), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("token", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("due_at", Moment, nullable=False),
        sa.Column("published_at", Moment),
        schema=schema,
    )
    for columns, where in (
        (["kind", "due_at", "position"], "published_at is null"),
        (["key", "position"], "published_at is null and key is not null"),
        (["published_at"], "published_at is not null"),
    ):
        rows = sa.text(where)
        name = f"ix_{table}_{'_'.join(columns)}"
        op.create_index(
            name, table, columns, schema=schema, postgresql_where=rows, sqlite_where=rows
        )


def downgrade() -> None:
    dialect = op.get_context().dialect.name
    op.drop_table(name_of("outbox", dialect), schema=schema_of(dialect))
