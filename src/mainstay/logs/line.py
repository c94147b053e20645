"""One line per unit of work, with everything that recurs encoded once.

Building such a line each time, searching it for secrets and encoding it takes longer than any other
stage of a request. In a prepared one only the time, the ids and the duration are new.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import orjson

from mainstay import context as contexts

if TYPE_CHECKING:
    from mainstay.context import Context
    from mainstay.logs import Logs

__all__ = ["Line"]


class Line:
    """One line that is written again and again; made by :meth:`Logs.line`."""

    __slots__ = ("_edition", "_fields", "_head", "_level", "_logger", "_msg", "_tail", "logs")

    def __init__(
        self, logs: Logs, level: str, logger: str, msg: str, fields: Mapping[str, str | int]
    ) -> None:
        self.logs = logs
        self._level = level
        self._logger = logger
        self._msg = msg
        self._fields = fields
        self._edition = -1
        self._head = self._tail = ""

    def write(self, seconds: float) -> None:
        """Write it for the current unit of work, which took *seconds*. Never raises."""
        now_ns = time.time_ns()
        text = self.rendered(contexts.current(), now_ns, seconds)
        if text:
            self.logs.put(text.encode())
        else:
            self.write_unprepared(now_ns, seconds)

    def write_later(self, seconds: float) -> None:
        """Write it, with others, when the event loop begins its next iteration."""
        self.logs.buffer.add(self, time.time_ns(), seconds)

    def rendered(self, context: Context | None, now_ns: int, seconds: float) -> str:
        """Return it with what is new; nothing where it has to be looked at more closely."""
        logs = self.logs
        if self._edition != logs.edition:
            self._prepare()
        if context is None or not self._head or not (ids := self._ids(context)):
            return ""
        now = logs.clock.text(now_ns)
        return f'{{"ts":"{now}{self._head}{ids}{self._tail}{seconds * 1000:.3f}}}\n'

    def write_unprepared(self, now_ns: int, seconds: float) -> None:
        """Write it as a line that was not prepared: searched for secrets, sent where logs are."""
        fields = {**self._fields, "duration_ms": round(seconds * 1000, 3)}
        self.logs.write_at(now_ns, self._level, self._logger, self._msg, fields)

    def _prepare(self) -> None:
        logs = self.logs
        self._edition = logs.edition
        about = logs.about(self._level, self._logger, self._msg, self._fields)
        if about is None:
            self._head = self._tail = ""
            return
        head, fields = about
        self._head = f'",{_members(head)},"correlation_id":"'
        self._tail = f",{_members({**fields, 'duration_ms': 0})}"[:-1]

    def _ids(self, context: Context) -> str:
        """Write who asked for what; nothing where that has to be looked at more closely."""
        correlation_id, principal = context.correlation_id, context.principal
        if not (len(correlation_id) == 32 and correlation_id.isalnum()):
            # A caller has chosen it.
            redaction = self.logs.redaction
            if not contexts.is_id(correlation_id) or not redaction.passes_once(correlation_id):
                return ""
        ids = f'{correlation_id}","trace_id":"{context.trace_id}","span_id":"{context.span_id}"'
        if principal is None:
            return ids
        subject = principal.subject
        if not (subject.isprintable() and self.logs.redaction.passes(subject)):
            return ""
        return f"{ids},{_members({'user': subject})}"


def _members(record: Mapping[str, object]) -> str:
    """Return what stands between the braces of *record* as JSON."""
    return orjson.dumps(record)[1:-1].decode()
