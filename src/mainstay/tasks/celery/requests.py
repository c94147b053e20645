"""What the worker's main process does when a task did not end well.

Celery knows requests of one's own: `Task.Request`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.exceptions import Ignore, Reject, Retry
from celery.worker.request import Request as CeleryRequest
from celery.worker.request import task_ready

from mainstay.deadletters import reason_of
from mainstay.tasks.celery.letters import note, on_stored, was_stored
from mainstay.tasks.celery.profiles import transport_of
from mainstay.tasks.telling import detail_of, plain

if TYPE_CHECKING:
    from mainstay.tasks.celery.app import App

__all__ = ["Request"]


class Request(CeleryRequest):
    """A request whose failures become dead letters with their reason."""

    _app: App
    _must_end = False

    def on_timeout(self, soft: bool, timeout: float) -> None:
        if not soft:
            self._end_at_limit(timeout)
        super().on_timeout(soft, timeout)

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, MemoryError):
            # Celery raises it again, here in the main process, which it ends.
            task_ready(self)
            self.task.backend.mark_as_failure(self.id, error, request=self._context)
            self._die(reason_of(error), "the task ran out of memory")
            return self.reject(requeue=False)
        if isinstance(error, TimeLimitExceeded):
            self._end_at_limit(error.args[0] if error.args else 0)
        elif isinstance(error, WorkerLostError | SystemExit | KeyboardInterrupt):
            if not (self._must_end or self._already_cancelled or self._already_revoked):
                self._lost(detail_of(error))
        elif isinstance(error, Reject):
            if not error.requeue:
                self._die(f"refused:{type(error).__name__}", plain(str(error.reason)))
        elif not isinstance(error, Retry | Ignore):
            note(self._message, reason_of(error), detail_of(error))
        return super().on_failure(exc_info, *args, **kwargs)

    def reject(self, requeue: bool = False) -> None:
        requeue = requeue and not self._must_end
        if requeue or self.acknowledged:
            super().reject(requeue=requeue)
            return
        message, queue = self._message, self._queue()
        note(message, "rejected")
        on_stored(message, lambda: self._app.service.metrics.dead_letter(queue))
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

    def _lost(self, how: str) -> None:
        if not self.task.reject_on_worker_lost:
            self._die("worker-lost", how)
            return
        self._app.service.logs.write(
            "warning",
            "mainstay.tasks",
            f"{self.name} goes back to its queue: {how}",
            event="worker_lost",
            name=self.name,
            task_id=self.id,
        )

    def _die(self, reason: str, detail: str) -> None:
        """Note the reason, and tell of a death that the task's own process could not tell of."""
        note(self._message, reason, detail)
        self._app.service.logs.write(
            "error",
            "mainstay.tasks",
            f"{self.name} is dead: {reason}",
            event="dead_letter",
            name=self.name,
            task_id=self.id,
            queue=self._queue(),
            reason=reason,
            detail=detail,
        )
        self._app.reports.died(self.id, reason, detail)

    def _queue(self) -> str:
        consumer = self._app.worker.consumer
        if consumer is not None:
            return consumer.queue_of(self._message)
        return str(self._message.delivery_info.get("routing_key") or "unknown")
