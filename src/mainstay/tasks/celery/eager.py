"""Tasks that are done where they are sent (`CELERY_TASK_ALWAYS_EAGER`), after the commit that they
were to leave with.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from mainstay.tasks.commits import do_all, on_commit

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

__all__ = ["Eager"]

Call = Callable[[], object]


class Eager:
    """The eager tasks of an application: in each thread one after the other, and not within one
    another.
    """

    def __init__(self) -> None:
        self._here = _Here()

    def after(self, session: Session, calls: Sequence[Call]) -> None:
        """Do *calls* when *session* has committed; never, when it has rolled back.

        Whoever commits gets the first error of them, when all are done.
        """
        on_commit(session, lambda: self._do(calls))

    def _do(self, calls: Sequence[Call]) -> None:
        here = self._here
        here.waiting.extend(calls)
        if here.is_busy:
            return
        here.is_busy = True
        try:
            do_all(here)
        finally:
            here.is_busy = False


class _Here(threading.local):
    def __init__(self) -> None:
        self.waiting: deque[Call] = deque()
        self.is_busy = False

    def __iter__(self) -> Iterator[Call]:
        while self.waiting:  # what is done may send more
            yield self.waiting.popleft()
