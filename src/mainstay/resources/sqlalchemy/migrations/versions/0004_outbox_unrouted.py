"""Outbox: what no queue takes is counted by itself."""

import sqlalchemy as sa
from alembic import op

from mainstay.resources.sqlalchemy.tables import name_of, schema_of

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    # With a default of the server's: processes of the version before write rows without it.
    unrouted = sa.Column("unrouted", sa.Integer, nullable=False, server_default="0")
    op.add_column(name_of("outbox", dialect), unrouted, schema=schema_of(dialect))


def downgrade() -> None:
    dialect = op.get_context().dialect.name
    op.drop_column(name_of("outbox", dialect), "unrouted", schema=schema_of(dialect))
