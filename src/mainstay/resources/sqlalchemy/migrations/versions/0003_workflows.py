"""Workflows and schedule."""

import sqlalchemy as sa
from alembic import op

from mainstay.resources.sqlalchemy.tables import Moment, json_type, name_of, schema_of

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    schema = schema_of(dialect)
    workflows, steps = name_of("workflows", dialect), name_of("workflow_steps", dialect)
    op.create_table(
        workflows,
        sa.Column("id", sa.String(255), primary_key=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("correlation_id", sa.String(128)),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("updated_at", Moment, nullable=False),
        schema=schema,
    )
    op.create_index(f"ix_{workflows}_created_at_id", workflows, ["created_at", "id"], schema=schema)
    op.create_table(
        steps,
        sa.Column("task_id", sa.String(255), primary_key=True),
        sa.Column("workflow_id", sa.String(255), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("signature", sa.Text, nullable=False),
        sa.Column("needs", json_type(), nullable=False),
        sa.Column("takes", json_type()),
        sa.Column("following", json_type(), nullable=False),
        sa.Column("waits_for", sa.Integer, nullable=False),
        sa.Column("attempts_before", sa.Integer, nullable=False),
        schema=schema,
    )
    op.create_index(
        f"ix_{steps}_workflow_id_position", steps, ["workflow_id", "position"], schema=schema
    )
    op.create_table(
        name_of("schedule", dialect),
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("ticked_at", Moment, nullable=False),
        schema=schema,
    )


def downgrade() -> None:
    dialect = op.get_context().dialect.name
    for name in ("schedule", "workflow_steps", "workflows"):
        op.drop_table(name_of(name, dialect), schema=schema_of(dialect))
