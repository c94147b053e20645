"""Flask: `create_app` returns a plain `flask.Flask` that has passed through the chassis."""

from mainstay.extras import require

require("flask", extra="flask")

from mainstay.http.flask.app import create_app  # noqa: E402 - the check stands first
from mainstay.http.flask.auth import (  # noqa: E402 - the check stands first
    CurrentUser,
    get_current_user,
    require_role,
)
from mainstay.http.flask.csrf import csrf_token  # noqa: E402 - the check stands first
from mainstay.http.flask.marks import (  # noqa: E402 - the check stands first
    body_limit,
    csrf_exempt,
)
from mainstay.http.flask.operations import Header, operation  # noqa: E402 - the check stands first
from mainstay.http.flask.params import (  # noqa: E402 - the check stands first
    IfMatch,
    Page,
    Rows,
)
from mainstay.http.flask.routes import rate_limit  # noqa: E402 - the check stands first
from mainstay.http.flask.work import Work, idempotent, keyed, work  # noqa: E402 - the check stands first

__all__ = [
    "CurrentUser",
    "Header",
    "IfMatch",
    "Page",
    "Rows",
    "Work",
    "body_limit",
    "create_app",
    "csrf_exempt",
    "csrf_token",
    "get_current_user",
    "idempotent",
    "keyed",
    "operation",
    "rate_limit",
    "require_role",
    "work",
]
