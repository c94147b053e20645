"""Records and logs."""

import sqlalchemy as sa
from alembic import op

revision = "5f2c7a1d9e30"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    now = sa.func.current_timestamp()
    op.create_table(
        "data_processing_records",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("task_id", sa.String(64), unique=True),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("task_type", sa.String(16), nullable=False),
        sa.Column("task_status", sa.String(16), nullable=False),
        sa.Column("outcome", sa.JSON()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
    )
    op.create_index(
        "ix_data_processing_records_newest", "data_processing_records", ["created_at", "id"]
    )
    op.create_table(
        "task_logs",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("task_id", sa.String(255), nullable=False),
        sa.Column("correlation_id", sa.String(128), nullable=False),
        sa.Column("queue_name", sa.String(255), nullable=False),
        sa.Column("service_name", sa.String(255), nullable=False),
        sa.Column("task_type", sa.String(16), nullable=False),
        sa.Column("description", sa.Text()),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
    )
    op.create_index("ix_task_logs_newest", "task_logs", ["created_at", "id"])
    op.create_index("ix_task_logs_task_id", "task_logs", ["task_id", "created_at"])
    op.create_index("ix_task_logs_correlation_id", "task_logs", ["correlation_id", "created_at"])


def downgrade() -> None:
    op.drop_table("task_logs")
    op.drop_table("data_processing_records")
