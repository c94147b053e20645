"""What is to be done when a unit of work has committed, and not when it has rolled back?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

__all__ = ["on_commit"]

_WAITING = "mainstay.tasks"


def on_commit(session: Session, do: Callable[[], None]) -> None:
    """Call *do* when *session* has committed, and never when it has rolled back."""
    from sqlalchemy import event

    waiting: list[Callable[[], None]] | None = session.info.get(_WAITING)
    if waiting is None:
        waiting = session.info[_WAITING] = []
        event.listen(session, "after_commit", _do_all)
        event.listen(session, "after_rollback", _forget_all)
    waiting.append(do)


def _do_all(session: Session) -> None:
    waiting = session.info[_WAITING][:]
    _forget_all(session)
    for do in waiting:
        do()


def _forget_all(session: Session) -> None:
    session.info[_WAITING].clear()
