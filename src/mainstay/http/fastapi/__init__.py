"""FastAPI: `create_app` returns a plain `fastapi.FastAPI` that has passed through the chassis."""

from mainstay.extras import require

require("fastapi", extra="fastapi")

from mainstay.http.fastapi.app import create_app  # noqa: E402 - the check stands first
from mainstay.http.fastapi.auth import (  # noqa: E402 - the check stands first
    CurrentUser,
    get_current_user,
    require_role,
)
from mainstay.http.fastapi.params import (  # noqa: E402 - the check stands first
    IfMatch,
    Page,
    Rows,
)
from mainstay.http.fastapi.routes import body_limit, rate_limit  # noqa: E402 - the check stands first
from mainstay.http.fastapi.work import Work, idempotent, keyed, work  # noqa: E402 - the check stands first

__all__ = [
    "CurrentUser",
    "IfMatch",
    "Page",
    "Rows",
    "Work",
    "body_limit",
    "create_app",
    "get_current_user",
    "idempotent",
    "keyed",
    "rate_limit",
    "require_role",
    "work",
]
