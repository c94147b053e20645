"""Parameters that many operations share: a page of rows, and the tag of the row to be changed.

``page: Page`` in an operation asks for a page.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mainstay.http.flask.operations import Header
from mainstay.http.rows import Page, Rows

__all__ = ["IfMatch", "Page", "Rows"]

IfMatch = Annotated[
    str | None,
    Header("If-Match"),
    Field(description="The ETag of the row that is to be changed."),
]
"""``if_match: IfMatch = None`` in an operation; see :func:`mainstay.http.etags.check_if_match`."""
