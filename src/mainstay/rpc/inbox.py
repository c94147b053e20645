"""How do answers reach an event loop? By a box that is emptied once a burst."""

from __future__ import annotations

import asyncio
import threading
from collections import deque

from mainstay.errors import MainstayError

__all__ = ["Inbox"]

Answer = asyncio.Future[bytes]


class Inbox:
    """Answers for the futures of one event loop.

    Waking a loop costs more than an answer does, so it is woken for the first of a burst only.
    """

    _here = threading.local()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[tuple[Answer, bytes | None, MainstayError | None]] = deque()
        self._is_awake = False

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Inbox:
        """Return the box of *loop*, which runs on this thread."""
        box: Inbox | None = getattr(cls._here, "box", None)
        if box is None or box._loop is not loop:
            box = cls._here.box = cls(loop)
        return box

    def put(self, future: Answer, body: bytes | None, error: MainstayError | None) -> None:
        """Bring *future* its answer; from any thread."""
        self._items.append((future, body, error))
        if not self._is_awake:
            self._is_awake = True
            try:
                self._loop.call_soon_threadsafe(self._empty)
            except RuntimeError:  # the loop is closed: nobody waits
                self._items.clear()

    def _empty(self) -> None:
        self._is_awake = False  # before looking, or an answer may be left lying
        while self._items:
            future, body, error = self._items.popleft()
            if future.done():  # cancelled meanwhile
                continue
            if error is not None:
                future.set_exception(error)
            elif body is not None:
                future.set_result(body)
