"""Task status: how tasks are found that are lost, and sent again."""

import sqlalchemy as sa
from alembic import op

from mainstay.resources.sqlalchemy.tables import Moment, name_of, schema_of

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_OPEN = "finished_at is null and state <> 'lost'"


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    status, schema = name_of("task_status", dialect), schema_of(dialect)
    # Without values: processes of the version before write rows without them.
    op.add_column(status, sa.Column("accounted_at", Moment), schema=schema)
    op.add_column(status, sa.Column("message", sa.Text), schema=schema)
    rows = sa.text(_OPEN)
    op.create_index(
        f"ix_{status}_queue_accounted_at",
        status,
        ["queue", "accounted_at"],
        schema=schema,
        postgresql_where=rows,
        sqlite_where=rows,
    )
    markers = name_of("task_markers", dialect)
    op.create_table(
        markers,
        sa.Column("id", sa.String(255), primary_key=True),
        sa.Column("queue", sa.String(255), nullable=False),
        sa.Column("sent_at", Moment, nullable=False),
        sa.Column("taken_at", Moment),
        schema=schema,
    )
    op.create_index(f"ix_{markers}_queue_sent_at", markers, ["queue", "sent_at"], schema=schema)


def downgrade() -> None:
    dialect = op.get_context().dialect.name
    status, schema = name_of("task_status", dialect), schema_of(dialect)
    op.drop_table(name_of("task_markers", dialect), schema=schema)
    op.drop_index(f"ix_{status}_queue_accounted_at", status, schema=schema)
    op.drop_column(status, "message", schema=schema)
    op.drop_column(status, "accounted_at", schema=schema)
