"""Where in a request did the database take its time? One span a statement, when tracing is on.

A span is called after what its statement does and to which table, and holds neither the statement
nor its values: both may be somebody's data.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event

from mainstay import context as contexts

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, ExceptionContext

    from mainstay.traces import Traces

__all__ = ["listen", "summary"]

_UNDER_WAY = "mainstay_spans"
_VERB = re.compile(r"\s*(\w+)")
_TABLE = re.compile(
    r"\b(?:from|into|update|table(?:\s+if\s+(?:not\s+)?exists)?)\s+([\w.\"]+)", re.IGNORECASE
)


def listen(made: Engine, traces: Traces) -> None:
    """Trace the statements of *made* that belong to a unit of work; nothing when tracing is off."""
    if not traces.enabled:
        return

    def before(
        connection: Connection,
        cursor: Any,
        statement: str,
        values: Any,
        _execution: Any,
        _many: bool,
    ) -> None:
        if contexts.current() is None:
            return
        name = summary(statement)
        attributes = {
            "db.system.name": made.dialect.name,
            "db.operation.name": name.partition(" ")[0],
            "db.query.summary": name,
        }
        span = traces.client(name, attributes=attributes)
        span.__enter__()
        connection.info.setdefault(_UNDER_WAY, []).append(span)

    def after(
        connection: Connection,
        cursor: Any,
        statement: str,
        values: Any,
        _execution: Any,
        _many: bool,
    ) -> None:
        _end(connection, None)

    def failed(context: ExceptionContext) -> None:
        if context.connection is not None:
            _end(context.connection, context.original_exception)

    event.listen(made, "before_cursor_execute", before)
    event.listen(made, "after_cursor_execute", after)
    event.listen(made, "handle_error", failed)


@lru_cache(maxsize=1024)
def summary(statement: str) -> str:
    """Say what a statement does, out of a bounded set: ``INSERT orders``."""
    verb = _VERB.match(statement)
    table = _TABLE.search(statement)
    words = [verb[1].upper() if verb else "SQL", table[1].replace('"', "") if table else ""]
    return " ".join(filter(None, words))


def _end(connection: Connection, error: BaseException | None) -> None:
    if connection.invalidated:
        return
    under_way = connection.info.get(_UNDER_WAY)
    if under_way:
        under_way.pop().__exit__(type(error) if error else None, error, None)
