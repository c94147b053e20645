"""A task has ended, and who is to hear of it is away: what then?

The child that did the task holds its message until its end is told; so the message is what keeps
it, whatever dies meanwhile. It waits for two minutes, and then gives the message back. The main
process, which must not wait, tells it later.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from billiard.exceptions import SoftTimeLimitExceeded
from celery import states
from celery.backends.base import DisabledBackend
from celery.exceptions import Reject
from typing_extensions import override

from mainstay.errors import Misconfigured
from mainstay.retries import is_transient

if TYPE_CHECKING:
    from mainstay.tasks.celery.app import App

__all__ = ["insist", "is_away", "patient"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 120.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 2.0
_SILENT_SECONDS = 5.0
# States that somebody waits for; of the others the next one says more.
_AWAITED = states.READY_STATES | {states.STARTED}


def insist(tell: Callable[[], T], what: str) -> T:
    """Call *tell* until it succeeds, in a worker's child; *what* is for the log.

    Raises:
        Reject: It was in vain for two minutes, or until the task's soft time limit: the message
            goes back to its queue, to be told, or done, again.
    """
    ends = time.monotonic() + PATIENCE_SECONDS
    try:
        for pause in _pauses():
            try:
                return tell()
            except Exception as error:
                if not is_away(error):
                    raise
                if time.monotonic() + pause > ends:
                    raise Reject(f"{what} could not be told", requeue=True) from error
                if pause == _FIRST_PAUSE_SECONDS:
                    logger.warning("%s waits to be told: %s", what, type(error).__name__)
            time.sleep(pause)
    except SoftTimeLimitExceeded as error:
        raise Reject(f"{what} could not be told", requeue=True) from error
    raise AssertionError("the pauses never end")


def is_away(error: BaseException | None) -> bool:
    """Does *error*, or what caused it, say that a server is away, and nothing against the work?"""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if is_transient(error):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


@cache
def patient(kind: type[Any]) -> type[Any]:
    """Return the result backend *kind*, which waits for its server as this module says."""
    if issubclass(kind, DisabledBackend):
        return _NoResults
    return type(kind.__name__, (_Patient, kind), {"__module__": kind.__module__})


class _Telling:
    """What every result backend is told, the statuses of tasks are told too."""

    app: App

    def mark_as_failure(
        self, task_id: str, exc: BaseException, *args: Any, request: Any = None, **kwargs: Any
    ) -> None:
        is_own = request is not None and request.id == task_id
        if is_own and self.app.worker.is_child and not getattr(request, "is_decided", False):
            # It failed before its stations, or after them, where Celery has put its request away.
            task = self.app.tasks[request.task]
            task.request_stack.push(request)
            try:
                self.app.reports.failed(task, int(request.retries) + 1, exc)
            finally:
                task.request_stack.pop()
        super().mark_as_failure(task_id, exc, *args, request=request, **kwargs)  # type: ignore[misc] # the backend's


class _NoResults(_Telling, DisabledBackend):
    @override
    def ensure_chords_allowed(self) -> None:
        raise Misconfigured(
            "a chord, or a group with something after it, was not sent: it needs a result backend: "
            "set CELERY_RESULT_BACKEND to Redis or PostgreSQL, or start it as a workflow: "
            "app.workflows.start(chord(…), name=…)"
        )


class _Patient(_Telling):
    _silent_until = 0.0

    def store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        store = partial(super().store_result, task_id, result, state)  # type: ignore[misc] # the backend's
        call = partial(store, traceback=traceback, request=request, **kwargs)
        if state in _AWAITED:
            return self._tell(call, f"that task {task_id} is {state}")
        if time.monotonic() < self._silent_until:
            return None
        try:
            stored = call()
        except Exception as error:
            if not is_away(error):
                raise
            if not self._silent_until:
                logger.warning("what tasks tell of their progress has nobody to hear it now")
            self._silent_until = time.monotonic() + _SILENT_SECONDS
            return None
        self._silent_until = 0.0
        return stored

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        call = super().on_chord_part_return  # type: ignore[misc] # the backend's
        self._tell(
            partial(call, request, state, result, **kwargs),
            f"that task {request.id}, of a chord, is {state}",
        )

    def _tell(self, call: Callable[[], T], what: str) -> T | None:
        worker = self.app.worker
        if worker.is_child:
            return insist(call, what)
        if worker.consumer is None:  # a sender's process, which hears of it itself
            return call()
        worker.tell(call, what)
        return None


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
