"""Storing the status of a task at each turn of its life.

The sender's word (*waiting*) and the worker's first (*started*) must be kept, or nothing is done:
both fail as the store fails. The last one waits for the store, with the message of the task in
hand; see :mod:`mainstay.tasks.celery.results`. What is said in between is told as well as can be.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import Reject

from mainstay import context as contexts
from mainstay import forks
from mainstay.errors import Retry
from mainstay.tasks.celery.results import is_outage, retried
from mainstay.tasks.celery.statuses import DatabaseStatuses, store_of
from mainstay.tasks.celery.workflows import workflow_of
from mainstay.tasks.status import State, StatusStore, TaskStatus
from mainstay.tasks.telling import error_of, plain, result_of
from mainstay.taskstates import ANY_EPOCH

if TYPE_CHECKING:
    from mainstay.outgoing import OutboxMessage
    from mainstay.tasks.celery.app import App
    from mainstay.tasks.celery.base import Task

__all__ = ["Reports"]

logger = logging.getLogger(__name__)

_MOMENT_SECONDS = 1.0
_PAUSE_SECONDS = 5.0
_MOST_KEPT = 10_000
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_NAME_CHARACTERS = 255


class Reports:
    """The reports of one application, in one process."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._generation = forks.generation()
        self._store: StatusStore | None = None
        self._is_store_known = False
        self._later: deque[TaskStatus] = deque(maxlen=_MOST_KEPT)
        self._pause_until = 0.0

    @property
    def store(self) -> StatusStore | None:
        """Where the statuses are; ``None`` when nobody keeps any."""
        self._mind_fork()
        if not self._is_store_known:
            in_child = self._app.worker.is_child
            self._store = store_of(self._app.service, keeps_connection=in_child)
            self._is_store_known = True
        return self._store

    @property
    def keeps_messages(self) -> bool:
        """Is what sends a task again kept with its status?"""
        return isinstance(self.store, DatabaseStatuses)

    def sent(
        self,
        id: str,
        name: str,
        queue: str,
        correlation_id: str,
        session: Any,
        *,
        delay_seconds: float = 0.0,
        message: OutboxMessage | None = None,
    ) -> bool:
        """The task is about to be sent; says whether that was news.

        Args:
            delay_seconds: It is due then.
            message: What sends it again, should the broker lose it; kept in a database.
        """
        store = self.store
        if store is None:
            return False
        status = TaskStatus(id=id, name=name, queue=queue, correlation_id=correlation_id)
        if isinstance(store, DatabaseStatuses):
            return store.accept(status, session, delay_seconds=delay_seconds, message=message)
        return store.record(status, session=session)

    def held_back(self, id: str, delay_seconds: float) -> None:
        """The task is tried again, and not sooner than that."""
        store = self.store
        if isinstance(store, DatabaseStatuses):
            with suppress(Retry):
                store.held_back(id, delay_seconds)

    def not_sent(self, id: str, error: BaseException) -> None:
        """The broker did not take it, for certain."""
        self._tell(
            TaskStatus(id=id, state=State.FAILURE, error=error_of(error, self._app.redaction))
        )

    def started(self, task: Task, attempt: int) -> bool:
        """A worker is about to begin the task; says whether it may: nobody has called it off."""
        store = self.store if _is_tracked(task) else None
        if store is None:
            return True
        context = contexts.current()
        kept = store.record(
            TaskStatus(
                id=task.request.id,
                name=task.name,
                state=State.STARTED,
                attempts=attempt,
                epoch=_epoch_of(task),
                worker=str(task.request.hostname or ""),
                correlation_id="" if context is None else context.correlation_id,
            )
        )
        if kept:
            return True
        status = store.find(task.request.id)
        return status is None or status.state is not State.REVOKED

    def result(self, task: Task) -> tuple[bool, Any]:
        """Say whether the result of a task that was done before is known, and which it is."""
        status = None if self.store is None else self.store.find(task.request.id)
        if status is None or status.state is not State.SUCCESS or status.error is not None:
            return False, None
        return True, status.result

    def is_done(self, id: str) -> bool:
        """Is the task known to be done? Not where nobody keeps that, or can be asked now."""
        try:
            status = None if self.store is None else self.store.find(id)
        except Retry:
            return False
        return status is not None and status.state is State.SUCCESS

    def is_revoked(self, id: str) -> bool:
        """Does the status of a task say that it was called off? Not where nobody can be asked."""
        try:
            status = None if self.store is None else self.store.find(id)
        except Retry:
            return False
        return status is not None and status.state is State.REVOKED

    def progress(self, task: Task, told: dict[str, Any]) -> None:
        """The task tells how far it is; while the store is away, only the next time says so."""
        store = self.store
        if store is None or not (_is_tracked(task) and task.request.id):
            return
        if time.monotonic() < self._pause_until:
            return
        attempt = int(task.request.retries or 0) + 1
        status = _turn(task, State.PROGRESS, attempt, None, meta=told)
        try:
            store.record(status)
        except SoftTimeLimitExceeded:
            raise  # it is the task's to hear
        except Exception as error:  # noqa: BLE001 - the work goes on
            if not is_outage(error):
                _warn(status, error)
                return
            if not self._pause_until:
                _warn(status, error)  # and not again while it lasts
            self._pause_until = time.monotonic() + _PAUSE_SECONDS
            return
        self._pause_until = 0.0

    def keeps_in_transactions(self, task: Task) -> bool:
        """Can what is said of the task be part of a transaction of its service's database?"""
        return _is_tracked(task) and hasattr(self.store, "afind")

    def succeeded_in(self, session: Any, task: Task, attempt: int, result: Any) -> bool:
        """The task is done, by the transaction of its effect. Says whether that counts: nobody has
        called it off meanwhile, or given it up.
        """
        store = self.store
        return store is not None and store.record(_success(task, attempt, result), session=session)

    def succeeded(self, task: Task, attempt: int, result: Any) -> None:
        """The task is done."""
        if _is_tracked(task):
            self._tell_end(task, _success(task, attempt, result))

    def retrying(self, task: Task, attempt: int, error: BaseException | None) -> None:
        """The task failed in passing, or asks itself to be done again."""
        if _is_tracked(task):
            told = None if error is None else error_of(error, self._app.redaction)
            self._tell(_turn(task, State.RETRYING, attempt, told))

    def failed(self, task: Task, attempt: int, error: BaseException) -> None:
        """The task failed for good."""
        if _is_tracked(task):
            self._tell_end(
                task, _turn(task, State.FAILURE, attempt, error_of(error, self._app.redaction))
            )

    def ignored(self, task: Task, attempt: int, error: BaseException) -> None:
        """The task asked to be ignored: it is called off, by itself."""
        if _is_tracked(task):
            self._tell_end(
                task, _turn(task, State.REVOKED, attempt, error_of(error, self._app.redaction))
            )

    def died(self, id: str, reason: str, detail: str, *, name: str, queue: str) -> None:
        """The worker's main process buried the task; told by its loop.

        Its sender may have kept no status, so whatever is known of it goes along.
        """
        kind = reason.rpartition(":")[2]
        status = TaskStatus(
            id=id,
            name=_named(name),
            queue=_named(queue),
            state=State.FAILURE,
            epoch=ANY_EPOCH,
            error={"type": plain(kind), "detail": plain(self._app.redaction.text(detail))},
        )
        self._keep(status)

    def revoked(self, id: str, *, name: str) -> None:
        """Somebody called the task off; likewise."""
        self._keep(TaskStatus(id=id, name=_named(name), state=State.REVOKED))

    def tell_later(self) -> None:
        """Tell what the main process has kept, for a moment; what a store that is down does not
        take is kept.

        On the main thread, because a thread of its own would be at work while a child is forked.
        """
        ends = time.monotonic() + _MOMENT_SECONDS
        store = self.store if self._later else None
        while self._later and store is not None and self._pause_until < time.monotonic() < ends:
            try:
                store.record(self._later[0])
            except Retry:
                self._pause_until = time.monotonic() + _PAUSE_SECONDS
                return
            except Exception as error:  # noqa: BLE001 - one that cannot be kept must not stop the others
                logger.warning("a status could not be noted: %s", type(error).__name__)
            self._later.popleft()

    def _keep(self, status: TaskStatus) -> None:
        self._mind_fork()
        self._later.append(status)

    def _tell_end(self, task: Task, status: TaskStatus) -> None:
        """Have the last word on *task* kept, before its message is let go of.

        Raises:
            Reject: The store was away for too long; see :func:`retried`.
        """
        store = self.store
        if store is None:
            return
        if task.request.is_eager or not self._app.worker.is_child:
            self._tell(status)
            return
        try:
            retried(lambda: store.record(status), f"the status of task {status.id}: {status.state}")
        except Reject:
            raise
        except Exception as error:  # noqa: BLE001 - the work is over, and only its note missing
            _warn(status, error)

    def _tell(self, status: TaskStatus) -> None:
        """Have *status* kept, if that can be."""
        store = self.store
        if store is None:
            return
        try:
            store.record(status)
        except Exception as error:  # noqa: BLE001 - a later word says more
            _warn(status, error)

    def _mind_fork(self) -> None:
        if self._generation != forks.generation():
            # What the parent had connected, and was about to tell, is the parent's.
            self._later.clear()
            self._is_store_known = False
            self._pause_until = 0.0
            self._generation = forks.generation()


def _warn(status: TaskStatus, error: Exception) -> None:
    logger.warning(
        "task %s is %s, and that could not be noted: %s",
        status.id,
        status.state,
        type(error).__name__,
    )


def _named(text: str) -> str:
    return plain(text)[:_NAME_CHARACTERS]


def _is_tracked(task: Task) -> bool:
    return task.track_status or bool(workflow_of(task.request))


def _success(task: Task, attempt: int, result: Any) -> TaskStatus:
    kept, error = result_of(result, is_handed_on=bool(workflow_of(task.request)))
    return TaskStatus(
        id=task.request.id,
        name=task.name,
        state=State.SUCCESS,
        attempts=attempt,
        epoch=_epoch_of(task),
        result=kept,
        error=error,
    )


def _epoch_of(task: Task) -> int:
    return int(getattr(task.request, "epoch", 0))


def _turn(
    task: Task,
    state: State,
    attempt: int,
    error: dict[str, str] | None,
    meta: Mapping[str, Any] = _NOTHING,
) -> TaskStatus:
    return TaskStatus(
        id=task.request.id,
        name=task.name,
        state=state,
        attempts=attempt,
        epoch=_epoch_of(task),
        error=error,
        meta=meta,
    )
