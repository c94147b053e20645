"""Which lines can go out together? Those of the requests that one turn of an event loop ended.

A system call for each takes as long as making the line, and making it in the midst of a request
twice as long as making several in a row: the processor has forgotten how.
"""

from __future__ import annotations

import asyncio
import contextvars
import select
import time
from typing import TYPE_CHECKING

from mainstay import context as contexts

if TYPE_CHECKING:
    from mainstay.context import Context
    from mainstay.logs.line import Line

__all__ = ["Turn"]


class Turn:
    """Lines of one process that are written as soon as its event loop has done what it is doing.

    What a line says, its time too, is that of the moment it was added.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[Line, Context | None, int, float]] = []
        self._ends_on: asyncio.AbstractEventLoop | None = None

    def add(self, line: Line, seconds: float) -> None:
        """Write *line* at the end of this turn, for the unit of work at hand."""
        self._waiting.append((line, contexts.current(), time.time_ns(), seconds))
        loop = asyncio.get_running_loop()
        if self._ends_on is not loop:
            self._ends_on = loop
            # In a context of its own: that of whoever came first is not the others'.
            loop.call_soon(self._write, context=contextvars.Context())

    def _write(self) -> None:
        waiting, self._waiting, self._ends_on = self._waiting, [], None
        together: list[str] = []
        length = 0
        for line, context, now_ns, seconds in waiting:
            text = line.rendered(context, now_ns, seconds)
            # More than this at a time, and lines of several processes on one pipe would mix.
            if together and (not text or length + len(text) > select.PIPE_BUF):
                line.logs.output.write("".join(together).encode())
                together, length = [], 0
            if text:
                together.append(text)
                length += len(text)
            elif context is None:
                line.write_anew(seconds)
            else:
                with contexts.use(context):
                    line.write_anew(seconds)
        if together:
            line.logs.output.write("".join(together).encode())
