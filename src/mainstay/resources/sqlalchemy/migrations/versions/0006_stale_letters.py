"""Workflows: which dead letters a retry has made stale."""

import sqlalchemy as sa
from alembic import op

from mainstay.resources.sqlalchemy.tables import Moment, name_of, schema_of

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    steps, schema = name_of("workflow_steps", dialect), schema_of(dialect)
    # With a default of the server's: processes of the version before write rows without it.
    retries = sa.Column("retries", sa.Integer, nullable=False, server_default="0")
    op.add_column(steps, retries, schema=schema)
    op.add_column(steps, sa.Column("letters_due_at", Moment), schema=schema)
    rows = sa.text("letters_due_at is not null")
    op.create_index(
        f"ix_{steps}_letters_due_at",
        steps,
        ["letters_due_at"],
        schema=schema,
        postgresql_where=rows,
        sqlite_where=rows,
    )


def downgrade() -> None:
    dialect = op.get_context().dialect.name
    steps, schema = name_of("workflow_steps", dialect), schema_of(dialect)
    op.drop_index(f"ix_{steps}_letters_due_at", steps, schema=schema)
    for column in ("letters_due_at", "retries"):
        op.drop_column(steps, column, schema=schema)
