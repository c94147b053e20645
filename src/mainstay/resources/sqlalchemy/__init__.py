"""A service's database, held open: PostgreSQL or SQLite, for blocking code and for asyncio."""

from mainstay.extras import require

require("sqlalchemy", extra="sqlalchemy")

from mainstay.resources.sqlalchemy.database import Database  # noqa: E402 - the extra is checked first
from mainstay.resources.sqlalchemy.inbox import first_time  # noqa: E402 - likewise

__all__ = ["Database", "first_time"]
