"""Something that takes long enough to be killed in."""

from alembic import op

revision = "second"
down_revision = "first"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("select pg_sleep(1)")
    op.execute("alter table migrated add column note text")
