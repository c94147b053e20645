"""Parameters that many routes share: a page of rows, and the tag of the row to be changed.

``page: Annotated[Page, Depends()]`` in a handler asks for a page.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Header

from mainstay.http.rows import Page, Rows

__all__ = ["IfMatch", "Page", "Rows"]

IfMatch = Annotated[
    str | None, Header(alias="If-Match", description="The ETag of the row that is to be changed.")
]
"""``if_match: IfMatch = None`` in a handler; see :func:`mainstay.http.etags.check_if_match`."""
