"""Hold the lines of finished requests until the event loop begins its next iteration.

A system call for each takes as long as rendering the line, and rendering it in the middle of a
request takes twice as long as rendering several in a row: the processor's caches are cold.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import select
import threading
from collections import deque
from typing import TYPE_CHECKING
from weakref import WeakSet

from mainstay import context as contexts

if TYPE_CHECKING:
    from mainstay.context import Context
    from mainstay.logs.line import Line
    from mainstay.logs.output import Output

__all__ = ["LineBuffer"]


class LineBuffer:
    """Lines of one process that are written when the event loop begins its next iteration.

    Each keeps the time at which it was added. Whatever else is written to the same output first
    calls :meth:`flush`, so lines come out in the order in which they were logged.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._waiting: deque[tuple[Line, Context | None, int, float]] = deque()
        self._ends_on: asyncio.AbstractEventLoop | None = None
        self._lock = threading.RLock()
        self._is_flushing = False
        _made.add(self)

    def add(self, line: Line, now_ns: int, seconds: float) -> None:
        """Write *line* when the next iteration begins, for the current unit of work."""
        self._waiting.append((line, contexts.current(), now_ns, seconds))
        loop = asyncio.get_running_loop()
        if self._ends_on is not loop:
            self._ends_on = loop
            # In an empty context: that of the first line is not that of the others.
            loop.call_soon(self._end, context=contextvars.Context())

    def flush(self) -> None:
        """Write what waits; cheap where nothing does."""
        if not self._waiting and not self._is_flushing:
            return
        with self._lock:
            # True here only in a line that is written from within: by this thread, in its place.
            if self._is_flushing:
                return
            self._is_flushing = True
            try:
                self._write()
            finally:
                self._is_flushing = False

    def forget(self) -> None:
        """In a forked child: the parent writes what waits, and its lock may stay held for ever."""
        self._waiting, self._ends_on = deque(), None
        self._lock, self._is_flushing = threading.RLock(), False

    def _end(self) -> None:
        self._ends_on = None
        self.flush()

    def _write(self) -> None:
        together: list[str] = []
        length = 0
        while self._waiting:
            line, context, now_ns, seconds = self._waiting.popleft()
            text = line.rendered(context, now_ns, seconds)
            # More than this at a time, and lines of several processes on one pipe would mix.
            if together and (not text or length + len(text) > select.PIPE_BUF):
                self._output.write("".join(together).encode())
                together, length = [], 0
            if text:
                together.append(text)
                length += len(text)
            elif context is None:
                line.write_unprepared(now_ns, seconds)
            else:
                with contexts.use(context):
                    line.write_unprepared(now_ns, seconds)
        if together:
            self._output.write("".join(together).encode())


_made: WeakSet[LineBuffer] = WeakSet()


def _forked() -> None:
    for buffer in _made:
        buffer.forget()


os.register_at_fork(after_in_child=_forked)
