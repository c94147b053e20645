"""The class of every task of a Mainstay application."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import celery
from celery.exceptions import Ignore
from celery.utils import uuid
from typing_extensions import override

from mainstay.errors import Bury, Misconfigured
from mainstay.pipeline import drive, stations
from mainstay.retries import Backoff
from mainstay.tasks.celery.entry import Replaced, TaskEntry
from mainstay.tasks.celery.profiles import Profile, acknowledgement, soft_limit
from mainstay.tasks.celery.sending import keep_results_of_canvas
from mainstay.tasks.celery.workflows import workflow_of
from mainstay.tasks.effects import check_function, check_session

if TYPE_CHECKING:
    from mainstay.tasks.celery.app import App

__all__ = ["Task"]


class Task(celery.Task):
    """A Celery task that passes the stations; its options are given in ``@app.task(…)``.

    A parameter called ``session`` is filled with a unit of work of the service's database, which
    is committed when the task returns and rolled back when it raises.

    Attributes:
        profile: ``redeliver`` or ``dead-letter``: what becomes of it when its worker dies; the
            application's by default.
        once: Its effect, written with ``session``, happens once however often it is delivered.
        fenced: Likewise, for a task that commits more than once: each commit of ``session`` holds
            only while no newer delivery has taken the task over, and
            :func:`~mainstay.resources.sqlalchemy.first_time` tells which steps are done.
        track_status: Keep a status that can be asked for; off for work that nobody asks about.
        backoff: How often and how far apart it is tried again after a passing failure.
    """

    abstract = True
    Request = "mainstay.tasks.celery.requests:Request"

    profile: ClassVar[Profile | None] = None
    once: ClassVar[bool] = False
    fenced: ClassVar[bool] = False
    track_status: ClassVar[bool] = True
    backoff: ClassVar[Backoff] = Backoff()
    takes_session: ClassVar[bool] = False
    ignores_by_default: ClassVar[bool] = False

    app: App

    @classmethod
    def bind(cls, app: App) -> App:
        if cls.profile is not None:
            if cls.profile not in ("redeliver", "dead-letter"):
                raise Misconfigured(
                    f"task {cls.name}: profile {cls.profile!r} is unknown: redeliver or dead-letter"
                )
            for option, value in acknowledgement(cls.profile).items():
                setattr(cls, option, value)
        if cls.time_limit and not cls.soft_time_limit:
            cls.soft_time_limit = soft_limit(cls.time_limit)
        check_function(cls.name, cls.run)
        cls.takes_session = check_session(cls.name, cls.run, once=cls.once, fenced=cls.fenced)
        _decide_start(cls)
        is_undecided = cls.ignore_result is None  # at the first of two times
        bound: App = super().bind(app)
        if is_undecided and cls.name.startswith("celery."):
            cls.ignore_result = False  # what Celery composes with these is all in their results
        elif is_undecided:
            cls.ignores_by_default = bool(cls.ignore_result)
        return bound

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.request.called_directly:
            return super().__call__(*args, **kwargs)
        return drive(stations(TaskEntry(self, args, kwargs), self.app.service))

    @override
    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> Any:
        keep_results_of_canvas(options, is_default=self.ignores_by_default)
        send = super().apply_async
        if self.app.conf.task_always_eager and options.get("session") is not None:
            session, id = options.pop("session"), task_id or uuid()
            # A scoped session is called for that of this thread.
            self.app.eager.after(
                session() if callable(session) else session,
                [partial(send, args, kwargs, id, producer, link, link_error, shadow, **options)],
            )
            return self.AsyncResult(id)
        return send(args, kwargs, task_id, producer, link, link_error, shadow, **options)

    @override
    def replace(self, sig: Any) -> Any:
        if workflow_of(self.request):
            raise Bury(
                f"{self.name} is a step of a workflow, whose steps are written down before they "
                "are done: start another workflow instead of replacing it"
            )
        try:
            return super().replace(sig)
        except Ignore as error:
            raise Replaced(*error.args) from error

    def progress(self, current: int, total: int, **meta: Any) -> None:
        """Tell how far the task is; those who ask for its status see it.

        Args:
            current: Steps done.
            total: Steps in all.
            meta: Anything else that JSON can hold.
        """
        percent = round(100 * current / total, 1) if total else 0.0
        told = {"current": current, "total": total, "progress": percent, **meta}
        self.app.reports.progress(self, told)
        if not self.request.called_directly and not self.request.is_eager:
            ignored = self.request.ignore_result
            if not (self.ignore_result if ignored is None else ignored):
                self.update_state(state="PROGRESS", meta=told)


def _decide_start(cls: type[Task]) -> None:
    """Have what an author's `before_start` raises decided like what the task raises."""
    own = cls.before_start
    if own is celery.Task.before_start or getattr(own, "is_decided", False):
        return

    def before_start(self: Task, task_id: str, args: Any, kwargs: Any) -> None:
        entry = TaskEntry(self, args, kwargs)
        entry.decide(lambda: own(self, task_id, args, kwargs))

    before_start.is_decided = True  # type: ignore[attr-defined]
    cls.before_start = before_start
