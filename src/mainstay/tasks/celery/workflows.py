"""Workflows: a canvas whose steps are written down, sent as their turn comes, and can be asked for.

    id = celery_app.workflows.start(
        chain(validate.s(contract), render.s(), notify.s()), name="contract", session=session
    )
    celery_app.workflows.get(id).state

Nothing of it travels inside messages, as Celery's own chains and chords do: the transaction in
which a step is done is the one that sends those that follow it, through the outbox.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from celery.utils import uuid
from kombu.utils.json import loads

from mainstay import context as contexts
from mainstay.errors import Invalid
from mainstay.tasks.celery import sending
from mainstay.tasks.values import unpacked
from mainstay.tasks.workflow import Step, Workflow, WorkflowState, state_of, states_of

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session, scoped_session

    from mainstay.resources.sqlalchemy.workflows import ReadyStep, WorkflowRecord
    from mainstay.tasks.celery.app import App

__all__ = ["AGAIN", "WORKFLOW", "Workflows", "retries_of", "workflow_of"]

T = TypeVar("T")

_CHARACTERS = 255

WORKFLOW = "x-mainstay-workflow"
"""The header of a task that is a step: the id of its workflow."""
AGAIN = "x-mainstay-again"
"""The header of a task that was sent again on purpose, after it failed or was called off: how often
it was. A dead letter tells by it after which retry it was written.
"""


def workflow_of(request: Any) -> str:
    """Return the workflow of which the task of *request* is a step; empty for any other task."""
    found = request.get(WORKFLOW) or (request.headers or {}).get(WORKFLOW)
    return found if isinstance(found, str) else ""


def retries_of(headers: Mapping[str, object]) -> int:
    """Return how often a step with those headers was sent again on purpose."""
    text = str(headers.get(AGAIN, ""))
    return int(text) if text.isascii() and text.isdecimal() else 0


class Workflows:
    """The workflows of one application, in its service's database."""

    def __init__(self, app: App) -> None:
        self._app = app

    def start(
        self,
        canvas: Any,
        /,
        *,
        name: str,
        workflow_id: str | None = None,
        session: Session | scoped_session[Any] | None = None,
    ) -> str:
        """Accept a workflow, and return its id: its steps are written down, and the first of them
        leave with the commit.

        Args:
            canvas: A signature, or a chain, a group, a chord of signatures, nested as they like.
            name: What it is called, for whoever looks for it.
            workflow_id: The id, where the sender makes it: starting twice under one id is one
                workflow.
            session: The unit of work that it is a part of; else it is committed by itself.

        Raises:
            Invalid: The canvas has no steps, too many, or an option that none of them can have; or
                the name or the id is too long.
            TooLarge: No worker would take the arguments of a step.
            Overloaded: More messages wait in the outbox than may.
        """
        from mainstay.resources.sqlalchemy import workflows
        from mainstay.tasks.celery.canvas import steps_of

        id = workflow_id or uuid()
        for what, text in (("name", name), ("id", id)):
            if not 0 < len(text) <= _CHARACTERS:
                raise Invalid(f"the {what} of a workflow has 1 to {_CHARACTERS} characters")
        steps = steps_of(canvas)
        limit = self._app.service.settings.body_limit_bytes
        for step in steps:
            kept = loads(step.signature)
            sending.check_body(step.name, [kept["args"], kept["kwargs"]], limit)
        with self._unit(session) as unit:
            connection = unit.connection()
            context = contexts.current()
            correlation_id = None if context is None else context.correlation_id
            if workflows.keep(connection, id, name, steps, correlation_id=correlation_id):
                self._send(unit, workflows.ready(connection, id))
        return id

    async def astart(
        self,
        canvas: Any,
        /,
        *,
        name: str,
        workflow_id: str | None = None,
        session: AsyncSession | None = None,
    ) -> str:
        """As :meth:`start`, without stopping the event loop; with an asyncio session."""
        call = partial(self.start, canvas, name=name, workflow_id=workflow_id)
        return await self._in(session, lambda unit: call(session=unit))

    def get(self, workflow_id: str) -> Workflow | None:
        """Return what has become of a workflow; ``None`` for an id that was never accepted."""
        from mainstay.resources.sqlalchemy import workflows

        with self._app.database.autocommit(read_only=True) as connection:
            return _workflow(workflows.find(connection, workflow_id))

    async def aget(self, workflow_id: str) -> Workflow | None:
        """As :meth:`get`, without stopping the event loop."""
        from mainstay.resources.sqlalchemy import workflows

        database = self._app.database
        return _workflow(await database.aautocommit(workflows.find, workflow_id, read_only=True))

    def states(
        self,
        workflow_ids: Iterable[str],
        *,
        session: Session | scoped_session[Any] | None = None,
    ) -> dict[str, WorkflowState]:
        """Return where each of those workflows is, in one statement; those that were never
        accepted, or are no longer kept, are left out.

        Args:
            session: The unit of work to ask in; else the database is asked beside any.
        """
        ids = set(workflow_ids)
        if session is not None:
            return _states(session.connection(), ids)
        with self._app.database.autocommit(read_only=True) as connection:
            return _states(connection, ids)

    async def astates(
        self, workflow_ids: Iterable[str], *, session: AsyncSession | None = None
    ) -> dict[str, WorkflowState]:
        """As :meth:`states`, without stopping the event loop; with an asyncio session."""
        ids = set(workflow_ids)
        if session is not None:
            return await session.run_sync(lambda held: _states(held.connection(), ids))
        return await self._app.database.aautocommit(_states, ids, read_only=True)

    def retry(
        self, workflow_id: str, *, session: Session | scoped_session[Any] | None = None
    ) -> Sequence[str]:
        """Do the steps again that failed, or were called off, and then what waits for them; what
        is done stays done. Returns the ids of their tasks, which are those of before.

        Their dead letters are taken: those in the service's database with the commit, those on a
        broker by a worker, a moment later.

        Args:
            session: The unit of work that it is a part of; else it is committed by itself.

        Raises:
            NotFound: There is no such workflow.
            Conflict: None of its steps has failed.
        """
        from mainstay.resources.sqlalchemy import deadletters, workflows

        with self._unit(session) as unit:
            again = workflows.again(unit.connection(), workflow_id)
            ids = [step.task_id for step in again]
            deadletters.drop(unit.connection(), ids)
            self._send(unit, again)
        return ids

    async def aretry(
        self, workflow_id: str, *, session: AsyncSession | None = None
    ) -> Sequence[str]:
        """As :meth:`retry`, without stopping the event loop; with an asyncio session."""
        return await self._in(session, lambda unit: self.retry(workflow_id, session=unit))

    def passed(self, session: Session, task_id: str) -> None:
        """The task of a step is done in the transaction of *session*: send whose turn has come.

        Raises:
            Bury: The next step is to be given a result that JSON cannot hold.
        """
        from mainstay.resources.sqlalchemy import workflows

        self._send(session, workflows.passed(session.connection(), task_id))

    @contextmanager
    def _unit(self, session: Session | scoped_session[Any] | None) -> Iterator[Session]:
        from sqlalchemy.orm import scoped_session

        if session is not None:
            yield session() if isinstance(session, scoped_session) else session
            return
        with self._app.database.session() as own:
            yield own

    async def _in(self, session: AsyncSession | None, do: Callable[[Session], T]) -> T:
        if session is not None:
            return await session.run_sync(do)
        async with self._app.database.asession() as own:
            return await own.run_sync(do)

    def _send(self, session: Session, steps: Sequence[ReadyStep]) -> None:
        if self._app.conf.task_always_eager:
            self._do_after(session, steps)
            return
        for step in steps:
            args, kwargs, options = _sent(step)
            # Not by `apply_async`, which checks the arguments: those that do not fit are the fault
            # of this step, and not of the one that is being done.
            task = self._app.tasks.get(step.name)
            known = {} if task is None else task._get_exec_options()
            self._app.send_task(step.name, args, kwargs, session=session, **{**known, **options})

    def _do_after(self, session: Session, steps: Sequence[ReadyStep]) -> None:
        """Do *steps* here, after the commit."""
        context = contexts.current() or contexts.Context.new()
        calls = []
        for step in steps:
            self._app.reports.sent(step.task_id, step.name, "", context.correlation_id, session)
            args, kwargs, options = _sent(step)
            calls.append(partial(self._app.tasks[step.name].apply, args, kwargs, **options))
        self._app.eager.after(session, calls)


def _sent(step: ReadyStep) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
    """Return what the task of *step* is given, and the options that it is sent with."""
    kept = loads(step.signature)
    options = kept["options"]
    options["task_id"] = step.task_id
    ours = {WORKFLOW: step.workflow_id}
    if step.retries:
        ours[AGAIN] = str(step.retries)
    # Before the others too: a dead letter keeps the first of many headers.
    options["headers"] = {**ours, **(options.get("headers") or {}), **ours}
    return (*map(unpacked, step.arguments), *kept["args"]), kept["kwargs"], options


def _states(connection: Connection, ids: set[str]) -> dict[str, WorkflowState]:
    from mainstay.resources.sqlalchemy import workflows

    found = workflows.states(connection, ids)
    return {id: state_of(states_of(steps)) for id, steps in found.items()}


def _workflow(found: WorkflowRecord | None) -> Workflow | None:
    if found is None:
        return None
    states = states_of((step.task_id, step.needs, step.state) for step in found.steps)
    return Workflow(
        id=found.id,
        name=found.name,
        state=state_of(states),
        correlation_id=found.correlation_id or "",
        created_at=found.created_at,
        steps=[
            Step(
                name=step.name,
                task_id=step.task_id,
                state=state,
                attempts=step.attempts,
                started_at=step.started_at,
                finished_at=step.finished_at,
                error=step.error,
            )
            for step, state in zip(found.steps, states, strict=True)
        ],
    )
