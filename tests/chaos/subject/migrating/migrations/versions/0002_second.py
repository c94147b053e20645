"""Something that takes long enough to be killed in."""

import os
import time
from pathlib import Path

from alembic import op

revision = "second"
down_revision = "first"
branch_labels = None
depends_on = None


def upgrade() -> None:
    gate = os.environ.get("CHAOS_GATE", "")
    while gate and not Path(gate).exists():
        time.sleep(0.02)
    op.execute("alter table migrated add column note text")
