"""What the worker's main process does when a task did not end well.

Celery knows requests of one's own: `Task.Request`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry
from celery.worker.request import Request as CeleryRequest
from celery.worker.request import task_ready
from celery.worker.state import revoked
from typing_extensions import override

from mainstay.deadletters import reason_of
from mainstay.tasks.celery.letters import note, on_stored, was_stored
from mainstay.tasks.celery.profiles import soft_limit, transport_of
from mainstay.tasks.celery.workflows import AGAIN
from mainstay.tasks.telling import detail_of, plain

if TYPE_CHECKING:
    from mainstay.tasks.celery.app import App

__all__ = ["Request"]

logger = logging.getLogger(__name__)

_LOST = WorkerLostError | SystemExit | KeyboardInterrupt


class Request(CeleryRequest):
    """A request whose failures become dead letters with their reason."""

    _app: App
    _must_end = False
    _given_limits: Sequence[float | None] = (None, None)
    _last_words: tuple[str, str] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._app.worker.held.add(self)

    @property
    def time_limits(self) -> tuple[float | None, float | None]:
        """After how many seconds the task is ended, and asked to end before that.

        Its message may give one of them, and its task or the settings the other: billiard waits
        for the soft limit first, so a soft one at or above the hard one would keep that from
        having an effect.
        """
        given_hard, given_soft = self._given_limits
        hard, soft = given_hard or self.task.time_limit, given_soft or self.task.soft_time_limit
        if hard and soft and soft >= hard:
            soft = soft_limit(hard)
        return hard, soft

    @time_limits.setter
    def time_limits(self, given: Sequence[float | None]) -> None:
        self._given_limits = given

    def revoked(self) -> bool:
        # Workers remember what was called off for as long as they run, and for all that was sent
        # under that id since then.
        is_again = self.id in revoked and AGAIN in self.request_dict
        if is_again and not self._app.reports.is_revoked(self.id):
            revoked.discard(self.id)
        if self.id not in revoked and self._has_expired():
            self._expire()
        return bool(super().revoked())

    @override
    def maybe_expire(self) -> bool:
        # Celery would call it off: it would be done, without a dead letter, and so would all that
        # is sent under that id again for as long as the worker runs.
        return False

    def _has_expired(self) -> bool:
        is_held = not (self.acknowledged or self._already_revoked)
        return is_held and self.expires is not None and self.expires < datetime.now(UTC)

    def _expire(self) -> None:
        """It waited for too long in this worker's hands: until it was due, or for its turn."""
        self._already_revoked = True
        task_ready(self)
        self._die("expired", f"at {self.expires.isoformat()}")
        self.reject(requeue=False)
        try:
            self.task.backend.mark_as_revoked(
                self.id, "expired", request=self._context, store_result=self.store_errors
            )
        except Exception:
            logger.exception("the end of %s could not be told to all", self.name)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        if not soft:
            self._end_at_limit(timeout)
        try:
            super().on_timeout(soft, timeout)
        except Exception:
            # The pool ends the task's process when this returns, and not when it raises.
            logger.exception("the end of %s could not be told to all", self.name)

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        error = _error_in(exc_info)
        if isinstance(error, Terminated) and not (self._already_cancelled or self._already_revoked):
            # Its process was told to end for the sake of another task, did not, and has died since
            # of something else: Celery would take this one for called off.
            exc_info = _lost_by(error)
            error = _error_in(exc_info)
        try:
            if isinstance(error, MemoryError):
                return self._out_of_memory(error)
            if self._is_lost(error) and self._was_done():
                task_ready(self)
                self._tell_of_loss("is done", detail_of(error, self._app.redaction))
                return self.acknowledge()
            self._note_failure(error)
            return super().on_failure(exc_info, *args, **kwargs)
        except Exception:
            logger.exception("the failure of %s could not be told to all", self.name)
            # A message that nobody lets go of is missing from what its worker may take.
            requeue = isinstance(error, _LOST) and self.task.reject_on_worker_lost
            return self.reject(requeue=requeue)

    def _out_of_memory(self, error: MemoryError) -> None:
        # Celery would raise it again, here in the main process, which it ends.
        task_ready(self)
        self._die(reason_of(error), "the task ran out of memory")
        self.reject(requeue=False)
        self.task.backend.mark_as_failure(self.id, error, request=self._context)

    def _note_failure(self, error: BaseException) -> None:
        if isinstance(error, TimeLimitExceeded):
            self._end_at_limit(error.args[0] if error.args else 0)
        elif isinstance(error, _LOST):
            if self._is_lost(error):
                self._lost(detail_of(error, self._app.redaction))
        elif isinstance(error, Reject):
            if not error.requeue:
                self._die(
                    f"refused:{type(error).__name__}",
                    plain(self._app.redaction.text(str(error.reason))),
                )
        elif not isinstance(error, Retry | Ignore):
            note(self._message, reason_of(error), detail_of(error, self._app.redaction))

    def reject(self, requeue: bool = False) -> None:
        requeue = requeue and not self._must_end
        if requeue or self.acknowledged:
            super().reject(requeue=requeue)
            return
        message, queue = self._message, self._queue()
        note(message, "rejected")
        on_stored(message, lambda: self._buried(queue))
        if transport_of(self._app.conf.broker_url) == "redis":
            super().reject(requeue=False)  # stores it, but only when the loop comes round to it
        elif self._app.undertaker.copy(message, queue):
            was_stored(message)
            self.acknowledge()
        else:
            super().reject(requeue=False)
            was_stored(message)  # by the broker

    def _end_at_limit(self, seconds: float) -> None:
        # Celery would put the message back, for the same task to take as long again.
        if not self._must_end:
            self._must_end = True
            self._die("time-limit", f"it was still at work after {seconds:g} s and was killed")

    def _is_lost(self, error: BaseException) -> bool:
        """Did its process die, and not because it was told to end?"""
        told = self._must_end or self._already_cancelled or self._already_revoked
        return isinstance(error, _LOST) and not told

    def _was_done(self) -> bool:
        """Did its process die when the work was done, and nothing was left to be sent after it?"""
        after = self._context.chain or self._context.callbacks or self._context.chord
        if self.task.reject_on_worker_lost or after:
            return False
        return self._app.reports.is_done(self.id)

    def _lost(self, how: str) -> None:
        if not self.task.reject_on_worker_lost:
            self._die("worker-lost", how)
            return
        self._tell_of_loss("goes back to its queue", how)

    def _tell_of_loss(self, what: str, how: str) -> None:
        self._app.service.logs.write(
            "warning",
            "mainstay.tasks",
            f"{self.name} {what}: {how}",
            event="worker_lost",
            name=self.name,
            task_id=self.id,
        )

    def _die(self, reason: str, detail: str) -> None:
        """Note the reason of a death that the task's own process could not tell of."""
        note(self._message, reason, detail)
        self._last_words = reason, detail

    def _buried(self, queue: str) -> None:
        """The dead letter is stored: tell of it. A worker that was taken for dead stores none, and
        says nothing: somebody else has the task.
        """
        self._app.service.metrics.dead_letter(queue)
        self._app.worker.letter_stored(self.request_dict)
        if self._last_words is None:
            return
        reason, detail = self._last_words
        self._app.service.logs.write(
            "error",
            "mainstay.tasks",
            f"{self.name} is dead: {reason}",
            event="dead_letter",
            name=self.name,
            task_id=self.id,
            queue=queue,
            reason=reason,
            detail=detail,
        )
        self._app.reports.died(self.id, reason, detail, name=self.name, queue=queue)

    def _queue(self) -> str:
        consumer = self._app.worker.consumer
        if consumer is not None:
            return consumer.queue_of(self._message)
        return str(self._message.delivery_info.get("routing_key") or "unknown")


def _error_in(exc_info: Any) -> BaseException:
    error: BaseException = getattr(exc_info.exception, "exc", exc_info.exception)
    return error


def _lost_by(error: Terminated) -> ExceptionInfo:
    try:
        raise WorkerLostError(f"Worker exited prematurely: {error}") from error
    except WorkerLostError:
        return ExceptionInfo()
