"""Storing how a task ended, in the result backend and in its status, when their server is away.

The child process that ran the task retries for two minutes before the task's message is let go of,
and then gives the message back to its queue: so the message keeps the task, whatever is killed
meanwhile. The worker's main process, on whose loop everything waits, retries later.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from billiard.exceptions import SoftTimeLimitExceeded
from celery import states
from celery.backends.base import DisabledBackend
from celery.exceptions import Reject
from typing_extensions import override

from mainstay.errors import Misconfigured, NoRoute
from mainstay.retries import Backoff, is_transient
from mainstay.texts import causes

if TYPE_CHECKING:
    from mainstay.tasks.celery.app import App

__all__ = ["backend_of", "is_outage", "retried"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 120.0
_PAUSES = Backoff(initial_seconds=0.2, max_seconds=2.0)
_SKIP_SECONDS = 5.0
_TRACEBACK_CHARACTERS = 16_000
# States that somebody waits for; any other is soon followed by one of these.
_AWAITED = states.READY_STATES | {states.STARTED}


def retried(store: Callable[[], T], what: str) -> T:
    """Call *store* until its server is back, in a worker's child; *what* is for the log.

    Raises:
        Reject: It was not within two minutes, or until the task's soft time limit: the message
            goes back to its queue.
    """
    ends = time.monotonic() + PATIENCE_SECONDS
    attempt = 0
    try:
        while True:
            attempt += 1
            pause = _PAUSES.ceiling_seconds(attempt)
            try:
                return store()
            except SoftTimeLimitExceeded:
                raise
            except Exception as error:
                if not is_outage(error):
                    raise
                if time.monotonic() + pause > ends:
                    raise Reject(f"not stored: {what}", requeue=True) from error
                if attempt == 1:
                    logger.warning("not stored yet, retrying: %s (%s)", what, type(error).__name__)
            time.sleep(pause)
    except SoftTimeLimitExceeded as error:
        raise Reject(f"not stored: {what}", requeue=True) from error


def is_outage(error: BaseException) -> bool:
    """Does *error*, or what caused it, say that a server is away, and nothing against the work?"""
    for each in causes(error, with_suppressed=False):
        if isinstance(each, SoftTimeLimitExceeded):
            return False
        if is_transient(each):
            return True
    return False


@cache
def backend_of(kind: type[Any]) -> type[Any]:
    """Return the result backend *kind*, with retries as this module describes them."""
    if issubclass(kind, DisabledBackend):
        return _Disabled
    return type(kind.__name__, (_Retrying, kind), {"__module__": kind.__module__, "_kind": kind})


class _Noting:
    """A result backend that has the status of a task note each failure that it is told of."""

    app: App

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: Any = None,
        request: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        mark = super().mark_as_failure  # type: ignore[misc] # the backend's
        if request is None or request.id != task_id or not self.app.worker.is_child:
            mark(task_id, exc, traceback, request, *args, **kwargs)
            return
        # Celery 5.6 takes a Reject that is raised after the task's function for a failure.
        if isinstance(exc, Reject) and exc.requeue:
            raise exc
        decision = getattr(request, "decision", "")
        if decision == "done" and is_outage(exc) and not isinstance(exc, NoRoute):
            raise Reject("what follows the task was not sent", requeue=True) from exc
        if not decision:
            self._note(request, exc)
        try:
            mark(task_id, exc, traceback, request, *args, **kwargs)
        except Exception as error:
            if not is_outage(error):
                raise
            raise Reject("what is called on its failure was not sent", requeue=True) from error

    def _note(self, request: Any, error: BaseException) -> None:
        """Note a failure outside of the task's function; Celery may have put its request away."""
        task = self.app.tasks[request.task]
        task.request_stack.push(request)
        try:
            self.app.reports.failed(task, int(request.retries or 0) + 1, error)
        finally:
            task.request_stack.pop()


class _Disabled(_Noting, DisabledBackend):
    @override
    def ensure_chords_allowed(self) -> None:
        raise Misconfigured(
            "a chord, or a group with something after it, was not sent: it needs a result backend: "
            "set CELERY_RESULT_BACKEND to Redis or PostgreSQL, or start it as a workflow: "
            "app.workflows.start(chord(…), name=…)"
        )


class _Retrying(_Noting):
    _kind: ClassVar[type[Any]]
    _skips_until = 0.0

    def prepare_exception(self, exc: Any, serializer: str | None = None) -> Any:
        found = super().prepare_exception(exc, serializer)  # type: ignore[misc]
        if isinstance(found, dict):
            found["exc_message"] = self.app.redaction.value("", found["exc_message"])
        return found

    @override
    def __reduce__(self, *args: Any, **kwargs: Any) -> Any:
        made: Any = super().__reduce__(*args, **kwargs)
        return made[0], (self._kind, *made[1][1:])

    def store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        store = partial(super().store_result, task_id, result, state)  # type: ignore[misc]
        if isinstance(traceback, str):  # its end says what was raised
            traceback = self.app.redaction.text(traceback[-_TRACEBACK_CHARACTERS:])
        call = partial(store, traceback=traceback, request=request, **kwargs)
        if state in _AWAITED or not self.app.worker.is_child:
            return self._store(call, f"the result of task {task_id} ({state})")
        if time.monotonic() < self._skips_until:
            return None
        try:
            stored = call()
        except Exception as error:
            if not is_outage(error):
                raise
            if not self._skips_until:
                logger.warning("progress of tasks is not stored: the result backend is away")
            self._skips_until = time.monotonic() + _SKIP_SECONDS
            return None
        self._skips_until = 0.0
        return stored

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        call = super().on_chord_part_return  # type: ignore[misc]
        self._store(
            partial(call, request, state, result, **kwargs),
            f"the result of task {request.id} ({state}) for its chord",
        )

    def _store(self, call: Callable[[], T], what: str) -> T | None:
        worker = self.app.worker
        if worker.is_child:
            return retried(call, what)
        if worker.consumer is None:  # a sender's process
            return call()
        worker.store(call, what)
        return None
