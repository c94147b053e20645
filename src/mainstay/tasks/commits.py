"""What is to be done when a unit of work has committed, and not when it has rolled back?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, SessionTransaction

    # By the savepoint within which each was asked for; outside of any: None.
    _Waiting: TypeAlias = dict[SessionTransaction | None, list[Callable[[], None]]]

__all__ = ["do_all", "on_commit"]

_WAITING = "mainstay.tasks"


def on_commit(session: Session, do: Callable[[], None]) -> None:
    """Call *do* when *session* has committed, and never when it has rolled back, be it only to a
    savepoint that was set before.
    """
    from sqlalchemy import event

    waiting: _Waiting | None = session.info.get(_WAITING)
    if waiting is None:
        waiting = session.info[_WAITING] = {}
        event.listen(session, "after_commit", _go_on)
        event.listen(session, "after_transaction_end", _forget)
    waiting.setdefault(session.get_nested_transaction(), []).append(do)


def do_all(calls: Iterable[Callable[[], object]]) -> None:
    """Make each of *calls*; raise the first error when all are made."""
    failure: Exception | None = None
    for call in calls:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - the others are made all the same
            failure = failure or error
    if failure is not None:
        raise failure


def _go_on(session: Session) -> None:
    """SQLAlchemy says of a savepoint, too, that it has committed."""
    waiting: _Waiting = session.info[_WAITING]
    savepoint = session.get_nested_transaction()
    settled = waiting.pop(savepoint, [])
    if savepoint is not None:
        waiting.setdefault(_around(savepoint), []).extend(settled)
        return
    do_all(settled)


def _forget(session: Session, ended: SessionTransaction) -> None:
    """What a commit has not taken away by now was rolled back, or never committed."""
    waiting: _Waiting = session.info[_WAITING]
    if ended.parent is None:
        waiting.clear()
    elif ended.nested:
        waiting.pop(ended, None)


def _around(savepoint: SessionTransaction) -> SessionTransaction | None:
    """Return the savepoint within which *savepoint* was set."""
    outer = savepoint.parent
    while outer is not None and not outer.nested:
        outer = outer.parent
    return outer
