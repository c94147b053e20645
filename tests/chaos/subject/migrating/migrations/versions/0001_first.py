"""One row for each time that this is done."""

from alembic import op

revision = "first"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("create table migrated (at timestamptz not null default clock_timestamp())")
    op.execute("insert into migrated default values")
