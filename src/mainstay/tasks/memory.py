"""Tasks in memory: for tests, for trying out, for reading first.

    room = MemoryTasks()

    @room.task
    def double(number: int) -> int:
        return number * 2

    id = room.send("double", 21)
    room.run()
    room.status(id).result  # 42

Nothing runs until :meth:`MemoryTasks.run` is called, on the thread that calls it, and time passes
only when a pause of a retry is due.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, overload

import orjson

from mainstay import context as contexts
from mainstay.context import Context, new_id
from mainstay.deadletters import DeadLetter
from mainstay.errors import Invalid, Misconfigured
from mainstay.logs.redaction import Redaction
from mainstay.retries import Backoff, RetryIn, decide
from mainstay.tasks.commits import on_commit
from mainstay.tasks.effects import Effect, check_function, check_session, returned
from mainstay.tasks.status import State, TaskStatus, is_newer
from mainstay.tasks.telling import detail_of, plain, result_of
from mainstay.taskstates import ANY_EPOCH

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from mainstay.resources.sqlalchemy import Database

__all__ = ["MemoryStatuses", "MemoryTasks"]

F = TypeVar("F", bound=Callable[..., Any])


class MemoryStatuses:
    """Statuses of one process, gone with it."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._kept: dict[str, TaskStatus] = {}
        self._lock = threading.Lock()

    def record(self, status: TaskStatus, *, session: object = None) -> bool:
        with self._lock:
            old = self._kept.pop(status.id, None)
            if old is not None and not is_newer(status, old):
                self._kept[status.id] = old
                return False
            if old is not None:
                tries = 0 if old.state.is_final else old.attempts  # it is done again
                status = replace(
                    status,
                    name=status.name or old.name,
                    queue=status.queue or old.queue,
                    worker=status.worker or old.worker,
                    correlation_id=status.correlation_id or old.correlation_id,
                    meta=status.meta or old.meta,
                    attempts=max(status.attempts, tries),
                )
            self._kept[status.id] = replace(status, updated_at=self._clock())
            return True

    def find(self, id: str) -> TaskStatus | None:
        return self._kept.get(id)

    def newest(self, *, state: State | None = None, limit: int = 50) -> Sequence[TaskStatus]:
        with self._lock:
            found = (each for each in reversed(self._kept.values()) if state in (None, each.state))
            return list(itertools.islice(found, limit))


@dataclass(order=True)
class _Waiting:
    due: float
    order: int
    id: str = field(compare=False)
    name: str = field(compare=False)
    arguments: bytes = field(compare=False)
    headers: dict[str, str] = field(compare=False)
    attempt: int = field(compare=False, default=1)


@dataclass(frozen=True, slots=True)
class _Registered:
    do: Callable[..., Any]
    once: bool
    fenced: bool
    takes_session: bool


class MemoryTasks:
    """A queue of tasks and its worker, in this process.

    Args:
        database: Where tasks that ask for a ``session`` work.
        queue: The queue's name, as dead letters show it.
        backoff: How often and how far apart a task is tried again.
        clock: Where the time comes from.
    """

    def __init__(
        self,
        *,
        database: Database | None = None,
        queue: str = "default",
        backoff: Backoff = Backoff(),  # noqa: B008 # frozen
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.queue = queue
        self.dead: list[DeadLetter] = []
        self._database = database
        self._backoff = backoff
        self._clock = clock
        self._redaction = Redaction()
        self._functions: dict[str, _Registered] = {}
        self._statuses = MemoryStatuses(clock=clock)
        self._waiting: list[_Waiting] = []
        self._order = itertools.count()

    @overload
    def task(
        self, function: F, /, *, name: str = ..., once: bool = ..., fenced: bool = ...
    ) -> F: ...
    @overload
    def task(
        self, *, name: str = ..., once: bool = ..., fenced: bool = ...
    ) -> Callable[[F], F]: ...
    def task(
        self, function: Any = None, *, name: str = "", once: bool = False, fenced: bool = False
    ) -> Any:
        """Make a function a task, under its own name or another.

        Args:
            once, fenced: As a Celery task has them: see :mod:`mainstay.tasks.effects`.

        Raises:
            Misconfigured: It is an ``async def`` or a generator, or one that is to have its effect
                once has no parameter ``session``.
        """

        def register(made: F) -> F:
            known_as = name or made.__name__
            check_function(known_as, made)
            takes_session = check_session(known_as, made, once=once, fenced=fenced)
            self._functions[known_as] = _Registered(made, once, fenced, takes_session)
            return made

        return register if function is None else register(function)

    def send(
        self,
        name: str,
        /,
        *args: Any,
        task_id: str | None = None,
        session: Session | None = None,
        **kwargs: Any,
    ) -> str:
        """Accept a task, with the context at hand, and return its id.

        Args:
            session: The unit of work that the task is a part of: it is accepted with the commit.

        Raises:
            Invalid: JSON cannot hold the arguments.
        """
        id = task_id or new_id()
        try:
            arguments = orjson.dumps([args, kwargs])
        except TypeError as error:
            raise Invalid(f"JSON cannot hold the arguments of {name}: {error}") from error
        headers = (contexts.current() or Context.new()).inject()
        headers.pop(contexts.TIMEOUT_SECONDS, None)

        def accept() -> None:
            correlation_id = headers[contexts.CORRELATION_ID]
            self._statuses.record(
                TaskStatus(id=id, name=name, queue=self.queue, correlation_id=correlation_id)
            )
            self._push(_Waiting(self._clock(), next(self._order), id, name, arguments, headers))

        if session is None:
            accept()
        else:
            on_commit(session, accept)
        return id

    def status(self, id: str) -> TaskStatus | None:
        """Return the status of a task, or ``None`` for an id that was never issued."""
        return self._statuses.find(id)

    def run(self) -> int:
        """Do everything that is due, and return how many tries that took."""
        tries = 0
        while self._waiting and self._waiting[0].due <= self._clock():
            self._do(heapq.heappop(self._waiting))
            tries += 1
        return tries

    @property
    def next_due(self) -> float | None:
        """When the next task is due, on the room's clock; ``None`` when none waits."""
        return self._waiting[0].due if self._waiting else None

    def _do(self, waiting: _Waiting) -> None:
        task = self._functions.get(waiting.name)
        if task is None:
            self._bury(waiting, "unknown-task", f"no task is called {waiting.name!r}")
            return
        effect = Effect(self._its_database, waiting.id, once=task.once, fenced=task.fenced)
        with contexts.use(Context.extract(waiting.headers)):
            try:
                self._run(task, waiting, effect)
            except Exception as error:  # noqa: BLE001 - whatever a task raises, its fate is decided here
                if effect.is_done(error) or effect.is_taken_over(error):
                    return
                report = TaskStatus(id=waiting.id, attempts=waiting.attempt, epoch=effect.epoch)
                decision = decide(error, waiting.attempt, self._backoff)
                if isinstance(decision, RetryIn):
                    self._statuses.record(replace(report, state=State.RETRYING))
                    due = self._clock() + decision.seconds
                    self._push(replace(waiting, due=due, attempt=waiting.attempt + 1))
                else:
                    self._bury(waiting, decision.reason, detail_of(error, self._redaction))

    def _run(self, task: _Registered, waiting: _Waiting, effect: Effect) -> None:
        effect.claim()
        report = TaskStatus(id=waiting.id, attempts=waiting.attempt, epoch=effect.epoch)
        self._statuses.record(replace(report, state=State.STARTED))
        args, kwargs = orjson.loads(waiting.arguments)
        if task.takes_session:
            with effect.session() as session:
                result = returned(waiting.name, task.do(*args, session=session, **kwargs))
        else:
            result = returned(waiting.name, task.do(*args, **kwargs))
        kept, note = result_of(result)
        self._statuses.record(replace(report, state=State.SUCCESS, result=kept, error=note))

    def _its_database(self) -> Database:
        if self._database is None:
            raise Misconfigured(
                "a task asks for a session, and the room has no database: "
                "MemoryTasks(database=Database(…))"
            )
        return self._database

    def _bury(self, waiting: _Waiting, reason: str, detail: str) -> None:
        self._statuses.record(
            TaskStatus(
                id=waiting.id,
                state=State.FAILURE,
                attempts=waiting.attempt,
                epoch=ANY_EPOCH,
                error={"type": reason.rpartition(":")[2], "detail": plain(detail)},
            )
        )
        self.dead.append(
            DeadLetter(
                id=waiting.id,
                kind="task",
                queue=self.queue,
                name=waiting.name,
                reason=reason,
                detail=detail,
                died_at=self._clock(),
                headers=waiting.headers,
                body=waiting.arguments,
            )
        )

    def _push(self, waiting: _Waiting) -> None:
        heapq.heappush(self._waiting, waiting)
