"""How does a task that is delivered twice have one effect?

Every room does a task that asks for a ``session`` in here, so the promise is the same in all:

=============  ===================================================================================
plain          one unit of work; a second delivery does it again
``once``       one unit of work that also holds the note that it is done; a second delivery is
               `AlreadyDone`
``fenced``     the same for a task that commits more than once: a claim first, which each commit
               shows; the delivery that a newer one has taken over is `Fenced`
=============  ===================================================================================
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from mainstay.errors import AlreadyDone, Fenced, Misconfigured, Retry

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from mainstay.resources.sqlalchemy import Database

T = TypeVar("T")

__all__ = ["Effect", "check_function", "check_session", "returned", "takes_session"]


class Effect:
    """The effect of one delivery of one task.

    Args:
        database: Where it is written.
        task_id: Which task; all of its deliveries have the same.
        once: Once, however often the task is delivered.
        fenced: Likewise, in any number of commits.
    """

    def __init__(
        self, database: Callable[[], Database], task_id: str, *, once: bool, fenced: bool
    ) -> None:
        self._database = database
        self._task_id = task_id
        self._once = once
        self._fenced = fenced
        self.epoch = 0
        """Which delivery this is, of those that have claimed the task; 0 where none claims it."""

    def claim(self) -> None:
        """Take the task over from whoever was given it before, where that may be.

        Raises:
            AlreadyDone: It was done before.
        """
        if self._fenced:
            from mainstay.resources.sqlalchemy import inbox

            self.epoch = inbox.claim(self._database(), self._work)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open the unit of work of the task, committed at the end.

        Raises:
            AlreadyDone: It was done before, or meanwhile.
            Fenced: A newer delivery has taken it over; nothing since the last commit is kept.
        """
        with self._database().session() as session:
            if not self._once and not self._fenced:
                yield session
                return
            from mainstay.resources.sqlalchemy import inbox

            if self._fenced:
                guard = inbox.fenced(session, self._work, self.epoch)
            else:
                guard = inbox.deduplicated(session, self._work)
            with guard:
                yield session

    def is_done(self, error: Exception) -> bool:
        """Does *error* say that this task was done before? What a call was answered does not."""
        return isinstance(error, AlreadyDone) and self._is_about(error)

    def is_taken_over(self, error: Exception) -> bool:
        """Does a newer delivery do the task, so that *error* is nothing but this one's end?"""
        if not self.epoch:
            return False
        if isinstance(error, Fenced) and self._is_about(error):
            return True
        from mainstay.resources.sqlalchemy import inbox

        try:
            return inbox.is_taken_over(self._database(), self._work, self.epoch)
        except Retry:
            return False  # then this one is tried again, and its next claim decides

    def _is_about(self, error: AlreadyDone | Fenced) -> bool:
        return (self._once or self._fenced) and error.work == self._work

    @property
    def _work(self) -> str:
        from mainstay.resources.sqlalchemy import inbox

        return inbox.identity("task", self._task_id)


def takes_session(function: Callable[..., Any]) -> bool:
    """Does a task's function have a parameter called ``session``?"""
    try:
        return "session" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def check_function(name: str, function: Callable[..., Any]) -> None:
    """Refuse a task whose function a worker would call and never run.

    Raises:
        Misconfigured: It is an ``async def``, or a generator.
    """
    bodies = (function, getattr(function, "__call__", None))  # noqa: B004 - an object that is called
    if any(inspect.iscoroutinefunction(body) for body in bodies):
        raise Misconfigured(
            f"task {name} is an `async def`, whose body no worker would run: make it a plain "
            "function, and call asyncio.run(…) in it for what is asynchronous"
        )
    if any(inspect.isgeneratorfunction(b) or inspect.isasyncgenfunction(b) for b in bodies):
        raise Misconfigured(
            f"task {name} is a generator, whose body no worker would run: return a list instead "
            "of `yield`"
        )


def returned(name: str, result: T) -> T:
    """Return *result* of a task's function, unless its work is still to be done.

    Raises:
        TypeError: It is a coroutine or a generator, which nobody runs.
    """
    if inspect.iscoroutine(result) or inspect.isgenerator(result):
        result.close()
    elif not inspect.isawaitable(result) and not inspect.isasyncgen(result):
        return result
    raise TypeError(
        f"task {name} returned a {type(result).__name__}, which nobody runs: run it in the task, "
        "and return what it gives"
    )


def check_session(name: str, function: Callable[..., Any], *, once: bool, fenced: bool) -> bool:
    """Return whether a task's function takes a session.

    Raises:
        Misconfigured: It does not, and what it promises needs one.
    """
    found = takes_session(function)
    if (once or fenced) and not found:
        option = "fenced" if fenced else "once"
        raise Misconfigured(
            f"task {name}: {option}=True needs a parameter `session`, whose transaction holds the "
            "effect and the note that it is done"
        )
    return found
