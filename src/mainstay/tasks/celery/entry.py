"""One task on its way through the stations that all work passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

from billiard.exceptions import SoftTimeLimitExceeded
from celery.backends.base import DisabledBackend
from celery.exceptions import Ignore, Reject, Retry
from kombu.utils.json import dumps

from mainstay import context as contexts
from mainstay import failpoints
from mainstay.context import Principal
from mainstay.deadletters import reason_of
from mainstay.errors import AlreadyDone, Bury
from mainstay.pipeline import Entry, Step, outcome_of
from mainstay.retries import RetryIn, decide
from mainstay.tasks.celery.workflows import workflow_of
from mainstay.tasks.effects import Effect, returned

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from mainstay.tasks.celery.base import Task
    from mainstay.traces import SpanKind

__all__ = ["Replaced", "TaskEntry"]

T = TypeVar("T")

_CARRIED = (
    contexts.CORRELATION_ID,
    contexts.TRACEPARENT,
    contexts.TRACESTATE,
    contexts.PRINCIPAL_TOKEN,
)
# Our own back-off counts the attempts; Celery's limit is for tasks that call `retry` themselves.
_NO_LIMIT_OF_CELERY = 1_000_000


class _Settled(Ignore):
    """What becomes of the task is known without this delivery."""


class Replaced(_Settled):
    """Another task is done in the place of this one, under its id."""


class _TakenOver(_Settled):
    """A newer delivery does the task: this one is neither done nor failed."""


class TaskEntry(Entry[Any]):
    """A task that a worker, or an eager call, does now."""

    kind = "task"
    span_kind: ClassVar[SpanKind] = "consumer"

    def __init__(self, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._task = task
        self._service = task.app.service
        self._args = args
        self._kwargs = kwargs
        self._request = task.request
        self._attempt = int(self._request.retries or 0) + 1
        self._is_step = bool(workflow_of(self._request))
        self._headers = self._carried()
        # Headers of the message could have said anything.
        self._request.epoch = 0
        self._request.decision = ""

    @property
    def headers(self) -> Mapping[str, str]:
        return self._headers

    @property
    def name(self) -> str:
        return str(self._task.name)

    def handle(self) -> Step[Any]:
        return Step(sync=partial(self.decide, self._do))

    def authenticate(self) -> Step[Principal | None] | None:
        token = self._headers.get(contexts.PRINCIPAL_TOKEN)
        tokens = self._service.tokens
        if not token or not tokens.can_verify:
            return None
        return Step(sync=partial(self.decide, partial(tokens.verify_work, token)))

    def outcome(self, error: BaseException | None) -> str:
        if isinstance(error, Retry):
            return "retry"
        if isinstance(error, _TakenOver):
            return "cancelled"
        if isinstance(error, Ignore):
            return "done"
        if isinstance(error, Reject):
            return "refused"
        if isinstance(error, SoftTimeLimitExceeded):
            return "expired"
        if isinstance(error, SystemExit | KeyboardInterrupt):
            return "cancelled"
        return outcome_of(error)

    def measure(self, outcome: str, seconds: float) -> None:
        self._service.metrics.task(self.name, outcome, seconds)

    def log(self, outcome: str, seconds: float, error: BaseException | None) -> None:
        logs = self._service.logs
        if error is None and not logs.is_on("info"):
            return
        facts: dict[str, Any] = {
            "name": self.name,
            "outcome": outcome,
            "duration_ms": round(seconds * 1000, 3),
            "task_id": self._request.id,
            "attempt": self._attempt,
        }
        level = "info"
        if isinstance(error, Retry):
            level = "warning"
            facts["reason"] = type(error.exc).__name__ if error.exc is not None else "asked for"
            facts["retry_in_seconds"] = error.when if isinstance(error.when, float) else None
            error = None
        elif isinstance(error, _TakenOver):
            level, error = "warning", None
            facts["reason"] = "taken over by a newer delivery"
        elif isinstance(error, Ignore):
            error = None
        elif outcome == "cancelled":
            level, error = "warning", None
        elif error is not None:
            level = "error"
            facts["reason"] = reason_of(error)
        logs.write(
            level, "mainstay.tasks", f"{self.name} {outcome}", event="task", error=error, **facts
        )

    def _carried(self) -> dict[str, str]:
        request = self._request
        carried = {name: value for name in _CARRIED if isinstance(value := request.get(name), str)}
        if not carried and request.is_eager:
            context = contexts.current()
            return {} if context is None else context.inject()
        return carried

    def decide(self, step: Callable[[], T]) -> T:
        """Do *step*; whatever it raises, what becomes of the task is decided here."""
        reports = self._task.app.reports
        try:
            return step()
        except Reject:
            raise
        except _Settled:
            self._request.decision = "ignored"
            raise
        except Ignore as error:
            reports.ignored(self._task, self._attempt, error)
            self._request.decision = "ignored"
            raise
        except Retry as error:
            reports.retrying(self._task, self._attempt, error.exc)
            raise
        except Exception as error:  # noqa: BLE001 - likewise
            if self._effect.is_taken_over(error):
                raise _TakenOver("a newer delivery does it") from None
            self._failed(error)

    def _do(self) -> Any:
        result = self._done()
        self._request.decision = "done"
        return result

    def _done(self) -> Any:
        try:
            if self._has_unit:
                self._effect.claim()
                self._request.epoch = self._effect.epoch
            return self._begin()
        except AlreadyDone as error:
            if not self._effect.is_done(error):
                raise
            return self._done_before()

    @cached_property
    def _effect(self) -> Effect:
        task = self._task
        return Effect(
            lambda: task.app.database, str(self._request.id), once=task.once, fenced=task.fenced
        )

    def _begin(self) -> Any:
        if not self._task.app.reports.started(self._task, self._attempt):
            # Workers forget what was called off when they restart; its status does not.
            raise _Settled("called off")
        was_delivered = self._is_step or (self._request.delivery_info or {}).get("redelivered")
        if was_delivered and self._task.app.reports.is_done(self._request.id):
            # Its end may not have come to all who wait for it.
            return self._done_before()
        return self._run()

    @property
    def _has_unit(self) -> bool:
        return self._task.takes_session and "session" not in self._kwargs

    def _run(self) -> Any:
        """Do the body, inside a unit of work when it asks for a session."""
        task = self._task
        if self._has_unit:
            with self._effect.session() as session:
                result = self._body(session=session)
                is_noted = self._conclude(session, result)
                failpoints.reach("tasks.before_commit")
            failpoints.reach("tasks.after_commit")
        else:
            result = self._body()
            is_noted = self._is_step
            if self._is_step:
                with self._effect.session() as session:
                    self._conclude(session, result)
        if not is_noted:
            task.app.reports.succeeded(task, self._attempt, result)
        return result

    def _body(self, **given: Any) -> Any:
        task, request = self._task, self._request
        result = returned(task.name, task.run(*self._args, **given, **self._kwargs))
        # Here, where what was done can still be undone.
        is_stored = not request.ignore_result and (not request.is_eager or task.store_eager_result)
        if request.chain or request.callbacks or request.chord:
            dumps(result)
        elif is_stored and not isinstance(task.backend, DisabledBackend):
            task.backend.encode(task.backend.prepare_value(result))
        return result

    def _conclude(self, session: Session, result: Any) -> bool:
        """Say in the transaction of the effect that the task is done, and send what follows a step.
        Says whether the former was possible.
        """
        task, reports = self._task, self._task.app.reports
        if not reports.keeps_in_transactions(task):
            return False
        counts = reports.succeeded_in(session, task, self._attempt, result)
        if self._is_step:
            if not counts:
                raise _TakenOver("it is done, called off or given up")
            task.app.workflows.passed(session, str(self._request.id))
        return True

    def _done_before(self) -> Any:
        """Return what the first delivery returned: its worker may have died before it sent what
        comes after the task (chain, callbacks, chord), and only a result makes Celery send that.
        What was sent already is sent again under the same id.
        """
        task, request = self._task, self._request
        is_known, result = task.app.reports.result(task)
        if is_known:
            return result
        if request.chain or request.callbacks or request.chord:
            raise Bury(
                f"{task.name} was done before, and what comes after it cannot be sent again: its "
                "result was not kept: leave track_status on, and let it return JSON"
            )
        raise _Settled("done before") from None

    def _failed(self, error: Exception) -> NoReturn:
        task, reports = self._task, self._task.app.reports
        decision = decide(error, self._attempt, task.backoff)
        if not isinstance(decision, RetryIn):
            reports.failed(task, self._attempt, error)
            self._request.decision = "failed"
            raise error
        reports.retrying(task, self._attempt, error)
        try:
            again = task.retry(
                exc=error,
                countdown=decision.seconds,
                max_retries=_NO_LIMIT_OF_CELERY,
                throw=False,
            )
        except Reject as refused:
            # The broker took no retry: let it have the message back, and not as a dead letter.
            raise Reject(refused.reason, requeue=True) from error
        raise again from error
