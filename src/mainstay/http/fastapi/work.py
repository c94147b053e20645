"""What a handler does in one unit: its session, its calls, its tasks, kept or undone together.

The edge commits for every handler, before the answer leaves: a commit that fails is an error that
the client hears of, and an answer that says "done" is true. Nothing is opened until it is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any, Generic

from fastapi import Header
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from typing_extensions import TypeVar

from mainstay import failpoints, idempotency
from mainstay.errors import Misconfigured
from mainstay.http.asgi import ENTRY
from mainstay.http.entry import HttpEntry
from mainstay.http.wire import RawHeaders
from mainstay.http.work import (
    KEY_DESCRIPTION,
    KEY_PATTERN,
    BaseWork,
    Replay,
    asked_under,
    store_of,
    stored,
)
from mainstay.idempotency import Answer
from mainstay.pipeline import Step, Steps, adrive

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from mainstay.service import Service

__all__ = ["Work", "idempotent", "keyed", "replayed", "work"]

T = TypeVar("T")
A_co = TypeVar("A_co", bound="AsyncSession", default="AsyncSession", covariant=True)


class Work(BaseWork, Generic[A_co]):
    """The unit of work of one request: ``w: Annotated[Work, Depends(work)]``.

    ``Work[AsyncSession]`` names the class of the database's sessions for a type checker.
    """

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._session: A_co | None = None
        self._endings: set[asyncio.Future[Any]] = set()

    @property
    def session(self) -> A_co:
        """The session of this work. It takes a connection with its first statement.

        POST, PUT, PATCH and DELETE, and what has sent a task, are committed when they are
        answered below 400 and the handler has not raised; whatever else is left uncommitted is
        rolled back.

        Raises:
            Misconfigured: The service holds no database.
        """
        if self._session is None:
            from mainstay.resources.sqlalchemy import Database

            made: Any = self._service.resource(Database).new_async_session()
            self._session = made
            if self._is_answered:
                self._only_read(self._session)
        return self._session

    async def commit(self) -> None:
        """Commit now what was done so far; the edge commits the rest.

        Raises:
            Retry: The database does not answer, or not now; nothing was kept.
            Disconnected: The connection broke during the commit: the outcome is unknown.
        """
        if self._session is not None and self._session.in_transaction():
            await self._to_its_end(self._commit(self._session))
        self._has_sent = False

    async def rollback(self) -> None:
        """Undo what was done since the last commit, and give the connection back."""
        if self._session is not None:
            await self._session.rollback()
            self._has_sent = False

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
            self._warn_of_open_transaction(queue, "await w.commit()")
        return await self._caller.acall(
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
        instead = "async with database.asession() as session: await asend(task, session=session)"
        if self._leaves_with_commit(instead):
            return await self._sender.asend(task, *args, session=self.session, **kwargs)
        return await self._sender.asend(task, *args, task_id=self._next_id(), **kwargs)

    async def _commit(self, session: AsyncSession) -> None:
        with _translated(committing=True):
            await session.commit()

    async def _settle(self, *, keeps: bool) -> None:
        self._is_answered = True
        if self._session is None:
            return
        if keeps:
            await self.commit()
        else:
            # The connection goes back before the answer leaves, however slowly it is read.
            await self._session.close()
            self._has_sent = False
        self._only_read(self._session)

    def _only_read(self, session: AsyncSession) -> None:
        self._refuse_writes(session.sync_session, "async with database.asession() as session: …")

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


async def work(connection: HTTPConnection) -> AsyncIterator[Work]:
    """Give the unit of work of this request; the same one however often it is asked for."""
    with _undone_when_raised(_unit_of(connection).work) as found:
        yield found


_KEY_HEADER: Any = Header(
    alias="Idempotency-Key",
    json_schema_extra={"pattern": KEY_PATTERN},
    description=KEY_DESCRIPTION,
)


async def idempotent(
    request: Request, idempotency_key: Annotated[str | None, _KEY_HEADER] = None
) -> AsyncIterator[Work]:
    """Give the unit of work of a request that may carry an `Idempotency-Key`.

    ``w: Annotated[Work, Depends(idempotent)]`` opts a route in. The first arrival of a key is
    worked on, and its answer is stored in the transaction of its effect; every other one gets
    that answer, byte for byte, and the handler is not called.

    It is the unit that :func:`work` gives: what an earlier dependency wrote in it is kept once too.
    On SQLite let it write nothing before: the claim needs the one lock that there is for writing.

    Raises:
        Malformed: The key has another form.
        Invalid: The key was used for another body.
        UnderWay: The first arrival is still being worked on.
    """
    if idempotency_key is None:
        found = _unit_of(request).work
    else:
        found = await _under_key(request, idempotency_key)
    with _undone_when_raised(found):
        yield found


async def keyed(
    request: Request, idempotency_key: Annotated[str, _KEY_HEADER]
) -> AsyncIterator[Work]:
    """As :func:`idempotent`, for a route that takes no request without a key."""
    with _undone_when_raised(await _under_key(request, idempotency_key)) as found:
        yield found


@contextmanager
def _undone_when_raised(found: Work) -> Iterator[Work]:
    """Note that the handler, or a dependency, has raised: FastAPI tells dependencies of it before
    any error handler or middleware answers.
    """
    try:
        yield found
    except BaseException:
        found.has_raised = True
        raise


async def _under_key(request: Request, key: str) -> Work:
    entry = _entry(request)
    if isinstance(entry.unit, _KeyedUnit):
        return entry.unit.work
    content_type = request.headers.get("content-type", "")
    if entry.body is None:
        await request.body()  # who reads it next finds it there
    asked = asked_under(key, entry, body=entry.body or b"", content_type=content_type)
    store = store_of(entry)
    unit = _KeyedUnit(_unit_of(request).work, entry)
    unit.work.name(asked.scope)
    answer = await unit.begin(store, asked)
    if answer is not None:
        await unit.work.rollback()  # what was written before the key was asked for
        raise Replay(answer)
    entry.unit = unit
    return unit.work


async def replayed(_: Request, replay: Exception) -> Response:
    """Give the first answer again, byte for byte."""
    if not isinstance(replay, Replay):
        raise replay
    answer = replay.answer
    response = Response(answer.body, answer.status)
    kept = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers]
    length = (b"content-length", str(len(answer.body)).encode())
    mark = (idempotency.REPLAYED_HEADER.lower().encode(), b"true")
    response.raw_headers = [*kept, mark]
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
        await self.work._settle(keeps=self.work.is_kept(self.entry.method, status))

    async def close(self, error: BaseException | None) -> None:
        if error is None:
            self.work.warn_of_unsent()
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
        return await adrive(self._steps, until=handler)

    async def settle(self, status: int, headers: RawHeaders, body: bytes | None) -> None:
        steps, self._steps = self._steps, None
        if steps is None:
            return
        pairs = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)
        answer = stored(self.work, self.entry, status, pairs, body)
        await self.work._to_its_end(adrive(steps, lambda steps: steps.send(answer)))
        await self.work._settle(keeps=False)  # what is kept is committed by now

    async def close(self, error: BaseException | None) -> None:
        steps, self._steps = self._steps, None
        if steps is not None:
            given_up = error or RuntimeError("the handler gave no answer")
            with suppress(BaseException):  # it comes back when the key is free
                await self.work._to_its_end(adrive(steps, lambda steps: steps.throw(given_up)))
        failpoints.reach("keys.after_answer")
        await super().close(error)

    def _session(self) -> AsyncSession | None:
        """The transaction that the answer is written in; a store that is no database needs none."""
        return self.work.session if self.work.has_database else None


def _unit_of(connection: HTTPConnection) -> _Unit:
    entry = _entry(connection)
    if not isinstance(entry.unit, _Unit):
        entry.unit = _Unit(Work(entry.edge.service), entry)
    return entry.unit


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
