"""Revisions: which migrations a database has, for older code."""

import sqlalchemy as sa
from alembic import op

from mainstay.resources.sqlalchemy.tables import name_of, schema_of

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    op.create_table(
        name_of("revisions", dialect),
        sa.Column("version_table", sa.String(255), primary_key=True),
        sa.Column("revision", sa.String(255), primary_key=True),
        schema=schema_of(dialect),
    )


def downgrade() -> None:
    dialect = op.get_context().dialect.name
    op.drop_table(name_of("revisions", dialect), schema=schema_of(dialect))
