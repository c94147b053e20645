"""What a handler does in one unit: its session, its calls, its tasks, kept or undone together.

The edge commits for every handler, before the answer leaves: a commit that fails is an error that
the client hears of, and an answer that says "done" is true. Nothing is opened until it is used.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import Header
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from mainstay import context as contexts
from mainstay import failpoints, idempotency
from mainstay.errors import Misconfigured
from mainstay.http.asgi import ENTRY
from mainstay.http.entry import HttpEntry
from mainstay.http.wire import RawHeaders
from mainstay.idempotency import Answer
from mainstay.outgoing import Caller, Sender
from mainstay.pipeline import Step, Steps

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from mainstay.service import Service

__all__ = ["Replay", "Work", "idempotent", "keyed", "replayed", "work"]

T = TypeVar("T")

_logger = logging.getLogger(__name__)

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
# Of one connection or one moment, not of the answer itself.
_NOT_STORED = frozenset(
    {"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"}
)
_NAMESPACE = uuid.UUID("6a2f5c1e-2f0b-5d7c-9c1a-7f3f0d5b8e21")


class Work:
    """The unit of work of one request: ``w: Annotated[Work, Depends(work)]``."""

    def __init__(self, service: Service, *, scope: str | None = None) -> None:
        self._service = service
        self._session: AsyncSession | None = None
        self._keeps = False
        self._is_answered = False
        self._has_sent = False
        self._named = 0
        self._endings: set[asyncio.Future[Any]] = set()
        self._id = uuid.uuid5(_NAMESPACE, scope) if scope else uuid.uuid4()

    @property
    def id(self) -> str:
        """What identifies this work: the same for every arrival of a request with one
        `Idempotency-Key`, random otherwise.
        """
        return str(self._id)

    @property
    def session(self) -> AsyncSession:
        """The session of this work. It takes a connection with its first statement.

        POST, PUT, PATCH and DELETE, and what has sent a task, are committed when they are
        answered below 400; whatever else is left uncommitted is rolled back.

        Raises:
            Misconfigured: The service holds no database.
        """
        if self._session is None:
            from sqlalchemy.ext.asyncio import AsyncSession

            from mainstay.resources.sqlalchemy import Database

            database = self._service.resource(Database)
            self._session = AsyncSession(database.async_engine, expire_on_commit=False)
        return self._session

    @property
    def has_database(self) -> bool:
        """Is there a session to be had?"""
        return "database" in self._service.resources

    async def commit(self) -> None:
        """Commit now what was done so far; the edge commits the rest.

        Raises:
            Retry: The database does not answer, or not now; nothing was kept.
            Disconnected: The connection broke during the commit: the outcome is unknown.
        """
        if self._session is not None:
            with _translated(committing=True):
                await self._to_its_end(self._session.commit())
            self._has_sent = False

    async def rollback(self) -> None:
        """Undo what was done since the last commit, and give the connection back."""
        if self._session is not None:
            await self._session.rollback()
            self._has_sent = False

    def keep(self) -> None:
        """Commit also when the answer is an error: for what must be remembered of a failure."""
        self._keeps = True

    async def call(
        self,
        queue: str,
        data: Any = None,
        *,
        function: str = "",
        timeout_seconds: float | None = None,
    ) -> Any:
        """Call the server of *queue* and return its result, within what is left of the deadline.

        Commit first: no transaction is held open while another service works.

        Raises:
            Retry: There is no server, or no answer in time.
            RemoteFailure: The server did the work and it failed.
        """
        if self._session is not None and self._session.in_transaction():
            message = (
                f"a call to {queue!r} while a transaction is open holds its connection and locks "
                "until the answer comes: await w.commit() first"
            )
            if self._service.settings.is_dev:
                raise RuntimeError(message)
            _logger.warning(message)
        caller: Caller = self._held(Caller, "calls a server", "mainstay.rpc.Calls")
        return await caller.acall(
            queue,
            data,
            function=function,
            timeout_seconds=timeout_seconds,
            id=self._next_id(),
        )

    async def send(self, task: Any, /, *args: Any, **kwargs: Any) -> str:
        """Send *task* as a part of this work, and return its id.

        It is written into the service's outbox and leaves with the commit, so a request that is
        answered "accepted" has been accepted, whatever dies then, and one that fails has sent
        nothing. In a WebSocket, which is not answered, commit it: ``await w.commit()``.

        A service without a database sends it now, under an id that is this work's own: a request
        that is tried again under its `Idempotency-Key` sends the same task again.

        Raises:
            Overloaded: More messages wait in the outbox than may.
            Unavailable: Without a database: the broker did not accept it, or did not say so.
        """
        sender: Sender = self._held(Sender, "sends a task", "a service with a Celery application")
        if not self._has_outbox:
            return await sender.asend(task, *args, task_id=self._next_id(), **kwargs)
        if self._is_answered:
            raise RuntimeError(
                "the request was answered, and its work committed: send in a session of its own, "
                "async with database.asession() as session: await asend(task, session=session)"
            )
        session = self.session
        id = str(uuid.uuid4())
        await sender.asend(task, *args, task_id=id, session=session, **kwargs)
        self._has_sent = True
        return id

    @property
    def _has_outbox(self) -> bool:
        database = self._service.resources.get("database")
        return database is not None and database.is_named

    def _next_id(self) -> str:
        """The first is the work's own, so that an author can name it before it is sent."""
        self._named += 1
        return self.id if self._named == 1 else str(uuid.uuid5(self._id, str(self._named)))

    def _held(self, kind: type[Any], does: str, example: str) -> Any:
        for resource in self._service.resources.values():
            if isinstance(resource, kind):
                return resource
        raise Misconfigured(f"the service holds nothing that {does}: it needs {example}")

    async def _settle(self, *, keeps: bool) -> None:
        self._is_answered = True
        if self._session is None:
            return
        if keeps or self._keeps:
            await self.commit()
        else:
            # The connection goes back before the answer leaves, however slowly it is read.
            await self._session.close()
            self._has_sent = False

    async def _to_its_end(self, ending: Coroutine[Any, Any, T]) -> T:
        """Await what must not stop half-way, also when the client goes away or the time is up."""
        task = asyncio.ensure_future(ending)
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        return await asyncio.shield(task)

    async def _close(self) -> None:
        while self._endings:
            await asyncio.wait(self._endings)
        if self._session is not None:
            with suppress(Exception):  # a connection that cannot be rolled back is thrown away
                await asyncio.shield(self._session.close())


async def work(connection: HTTPConnection) -> Work:
    """Return the unit of work of this request; the same one however often it is asked for."""
    entry = _entry(connection)
    if not isinstance(entry.unit, _Unit):
        entry.unit = _Unit(Work(entry.edge.service), entry)
    return entry.unit.work


_KEY_HEADER: Any = Header(
    alias="Idempotency-Key",
    json_schema_extra={"pattern": '^(?!""$)[!-~]{1,255}$'},
    description="Names the request, so that sending it again has no second effect: 1 to 255 "
    "visible ASCII characters, bare or in double quotes.",
)


async def idempotent(
    request: Request, idempotency_key: Annotated[str | None, _KEY_HEADER] = None
) -> Work:
    """Return the unit of work of a request that may carry an `Idempotency-Key`.

    ``w: Annotated[Work, Depends(idempotent)]`` opts a route in. The first arrival of a key is
    worked on, and its answer is stored in the transaction of its effect; every other one gets
    that answer, byte for byte, and the handler is not called.

    Raises:
        Malformed: The key has another form.
        Invalid: The key was used for another body.
        UnderWay: The first arrival is still being worked on.
    """
    if idempotency_key is None:
        return await work(request)
    return await _under_key(request, idempotency_key)


async def keyed(request: Request, idempotency_key: Annotated[str, _KEY_HEADER]) -> Work:
    """As :func:`idempotent`, for a route that takes no request without a key."""
    return await _under_key(request, idempotency_key)


async def _under_key(request: Request, key: str) -> Work:
    entry = _entry(request)
    if isinstance(entry.unit, _KeyedUnit):
        return entry.unit.work
    context = contexts.current()
    asked = idempotency.Request.of(
        idempotency.parse_key(key),
        operation=f"{request.method} {entry.route}",
        target=entry.target,
        principal=context.principal.subject if context and context.principal else "",
        body=await request.body(),
        content_type=request.headers.get("content-type", ""),
        lease_seconds=entry.edge.timeout_seconds,
    )
    store = entry.edge.rules.idempotency
    if store is None:
        raise Misconfigured(
            "an Idempotency-Key cannot be kept: the service has neither a database nor Redis"
        )
    unit = _KeyedUnit(Work(entry.edge.service, scope=asked.scope), entry)
    answer = await unit.begin(store, asked)
    if answer is not None:
        raise Replay(answer)
    entry.unit = unit
    return unit.work


class Replay(Exception):
    """The request has been answered before; ends the handler before it begins."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("answered before")
        self.answer = answer


async def replayed(_: Request, replay: Exception) -> Response:
    """Give the first answer again, byte for byte."""
    if not isinstance(replay, Replay):
        raise replay
    answer = replay.answer
    response = Response(answer.body, answer.status)
    stored = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers]
    length = (b"content-length", str(len(answer.body)).encode())
    mark = (idempotency.REPLAYED_HEADER.lower().encode(), b"true")
    response.raw_headers = [*stored, mark]
    if answer.status not in (204, 304):
        response.raw_headers.append(length)
    return response


class _Unit:
    """A unit of work as the edge sees it."""

    holds = False

    def __init__(self, work: Work, entry: HttpEntry) -> None:
        self.work = work
        self.entry = entry

    async def settle(self, status: int, headers: RawHeaders, body: bytes | None) -> None:
        changes = self.entry.method not in _SAFE_METHODS or self.work._has_sent
        await self.work._settle(keeps=changes and status < 400)

    async def close(self, error: BaseException | None) -> None:
        if error is None and self.work._has_sent:
            _logger.warning("a task was sent in work that was never committed: it does not leave")
        await self.work._close()


class _KeyedUnit(_Unit):
    """The same under an `Idempotency-Key`: the station of `idempotency.once`, which stands still
    while the handler works.
    """

    holds = True

    def __init__(self, work: Work, entry: HttpEntry) -> None:
        super().__init__(work, entry)
        self._steps: Steps[Answer] | None = None

    async def begin(
        self, store: idempotency.Store[Any], asked: idempotency.Request
    ) -> Answer | None:
        """Claim the key; returns the answer that was given before, if there is one."""
        handler: Step[Answer] = Step()
        self._steps = idempotency.once(
            store,
            asked,
            idempotency.Work(
                handle=handler,
                session=self._session,
                commit=Step(aio=self.work.commit),
                rollback=Step(aio=self.work.rollback),
            ),
        )
        return await _advance(self._steps, next, until=handler)

    async def settle(self, status: int, headers: RawHeaders, body: bytes | None) -> None:
        steps, self._steps = self._steps, None
        if steps is None:
            return
        stored = tuple(
            (name.decode("latin-1").lower(), value.decode("latin-1"))
            for name, value in headers
            if name.decode("latin-1").lower() not in _NOT_STORED
        )
        answer = Answer(status, stored, body or b"", fits=not self.entry.is_misfit)
        await self.work._to_its_end(_advance(steps, lambda steps: steps.send(answer)))
        await self.work._settle(keeps=status < 400)

    async def close(self, error: BaseException | None) -> None:
        steps, self._steps = self._steps, None
        if steps is not None:
            given_up = error or RuntimeError("the handler gave no answer")
            with suppress(BaseException):  # it comes back when the key is free
                await self.work._to_its_end(_advance(steps, lambda steps: steps.throw(given_up)))
        failpoints.reach("keys.after_answer")
        await super().close(error)

    def _session(self) -> AsyncSession | None:
        """The transaction that the answer is written in; a store that is no database needs none."""
        return self.work.session if self.work.has_database else None


async def _advance(
    steps: Steps[Answer],
    resume: Callable[[Steps[Answer]], Step[Any]],
    *,
    until: Step[Answer] | None = None,
) -> Answer | None:
    """Take *steps* on, to their end or to the step *until*, where they then stand."""
    try:
        step = resume(steps)
        while step is not until:
            if step.aio is None:
                raise TypeError("this step can only be done blocking")
            try:
                value = await step.aio()
            except BaseException as error:  # noqa: BLE001 - a station may answer it
                step = steps.throw(error)
            else:
                step = steps.send(value)
    except StopIteration as end:
        answer: Answer = end.value
        return answer
    return None


def _entry(connection: HTTPConnection) -> HttpEntry:
    entry = connection.scope.get(ENTRY)
    if not isinstance(entry, HttpEntry):
        raise Misconfigured(
            "this application has not passed the stations: make it with mainstay's create_app"
        )
    return entry


def _translated(*, committing: bool) -> AbstractContextManager[None]:
    from mainstay.resources.sqlalchemy.failures import translated

    return translated(committing=committing)
