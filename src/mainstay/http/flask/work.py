"""What a view does in one unit: its session, its calls, its tasks, kept or undone together.

The edge commits for every view, before the answer leaves: a commit that fails is an error that the
client hears of, and an answer that says "done" is true. Nothing is opened until it is used.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any, Generic

from flask import Response, current_app, has_request_context, request
from typing_extensions import TypeVar

from mainstay import failpoints, idempotency
from mainstay.errors import Misconfigured
from mainstay.http import misfits
from mainstay.http.flask.auth import known
from mainstay.http.flask.marks import takes_header
from mainstay.http.work import (
    KEY_DESCRIPTION,
    KEY_PATTERN,
    BaseWork,
    Replay,
    asked_under,
    store_of,
    stored,
)
from mainstay.http.wsgi import ENTRY, Pairs, WsgiEntry
from mainstay.idempotency import Answer
from mainstay.pipeline import Step, Steps, drive

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from mainstay.service import Service

__all__ = ["Work", "idempotent", "keyed", "replayed", "work"]


S_co = TypeVar("S_co", bound="Session", default="Session", covariant=True)


class Work(BaseWork, Generic[S_co]):
    """The unit of work of one request; :func:`work` returns it.

    ``Work[Session]`` names the class of the database's sessions for a type checker.
    """

    def __init__(self, service: Service, *, entry: WsgiEntry | None = None) -> None:
        super().__init__(service)
        self._entry = entry
        self._session: S_co | None = None

    @property
    def session(self) -> S_co:
        """The session of this work. It takes a connection with its first statement.

        POST, PUT, PATCH and DELETE, and what has sent a task, are committed when they are
        answered below 400 and the view has not raised; whatever else is left uncommitted is
        rolled back.

        Raises:
            Misconfigured: The service holds no database.
        """
        if self._session is None:
            from mainstay.resources.sqlalchemy import Database

            made: Any = self._service.resource(Database).new_session()
            self._session = made
            if self._is_answered:
                self._only_read(self._session)
        return self._session

    def commit(self) -> None:
        """Commit now what was done so far; the edge commits the rest.

        Raises:
            DeadlineExceeded: The caller has been told by now that nothing came.
            Retry: The database does not answer, or not now; nothing was kept.
            Disconnected: The connection broke during the commit: the outcome is unknown.
        """
        if self._session is None:
            return
        if self._entry is not None:
            self._entry.check_time()
        with _translated(committing=True):
            self._session.commit()
        self._has_sent = False

    def rollback(self) -> None:
        """Undo what was done since the last commit, and give the connection back."""
        if self._session is not None:
            self._session.rollback()
            self._has_sent = False

    def call(
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
            self._warn_of_open_transaction(queue, "w.commit()")
        return self._caller.call(
            queue,
            data,
            function=function,
            timeout_seconds=timeout_seconds,
            id=self._next_id(),
        )

    def send(self, task: Any, /, *args: Any, **kwargs: Any) -> str:
        """Send *task* as a part of this work, and return its id.

        It is written into the service's outbox and leaves with the commit, so a request that is
        answered "accepted" has been accepted, whatever dies then, and one that fails has sent
        nothing.

        A service without a database sends it now, under an id that is this work's own: a request
        that is tried again under its `Idempotency-Key` sends the same task again.

        Raises:
            Overloaded: More messages wait in the outbox than may.
            Unavailable: Without a database: the broker did not accept it, or did not say so.
        """
        instead = "with database.session() as session: send(task, session=session)"
        if self._leaves_with_commit(instead):
            return self._sender.send(task, *args, session=self.session, **kwargs)
        return self._sender.send(task, *args, task_id=self._next_id(), **kwargs)

    def _settle(self, *, keeps: bool) -> None:
        self._is_answered = True
        if self._session is None:
            return
        if keeps:
            self.commit()
        else:
            # The connection goes back before the answer leaves, however slowly it is read.
            self._session.close()
            self._has_sent = False
        self._only_read(self._session)

    def _only_read(self, session: Session) -> None:
        self._refuse_writes(session, "with database.session() as session: …")

    def _close(self) -> None:
        if self._session is not None:
            with suppress(Exception):  # a connection that cannot be rolled back is thrown away
                self._session.close()


def work() -> Work:
    """Return the unit of work of this request; the same one however often it is asked for.

    ``w: Annotated[Work, work]`` in an operation, ``w = work()`` in any view.
    """
    entry = _entry()
    if not isinstance(entry.unit, _Unit):
        entry.unit = _Unit(Work(entry.edge.service, entry=entry), entry)
    return entry.unit.work


_KEY_HEADER: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": KEY_PATTERN},
    "description": KEY_DESCRIPTION,
}


@takes_header(_KEY_HEADER)
def idempotent() -> Work:
    """Return the unit of work of a request that may carry an `Idempotency-Key`.

    ``w: Annotated[Work, idempotent]`` opts an operation in, ``w = idempotent()`` as its first line
    any view. The first arrival of a key is worked on, and its answer is stored in the transaction
    of its effect; every other one gets that answer, byte for byte, and the view ends here.

    It is the unit that :func:`work` gives: what was written in it before is kept once too. On
    SQLite write nothing before: the claim needs the one lock that there is for writing.

    Raises:
        Malformed: The key has another form.
        Invalid: The key was used for another body.
        UnderWay: The first arrival is still being worked on.
    """
    key = request.headers.get(idempotency.HEADER)
    return work() if key is None else _under_key(key)


@takes_header({**_KEY_HEADER, "required": True})
def keyed() -> Work:
    """As :func:`idempotent`, for a view that takes no request without a key."""
    key = request.headers.get(idempotency.HEADER)
    if key is None:
        raise misfits.no_key()
    return _under_key(key)


def _under_key(key: str) -> Work:
    entry = _entry()
    if isinstance(entry.unit, _KeyedUnit):
        return entry.unit.work
    known()  # a key is its principal's own, also where nobody has to sign in
    content_type = request.headers.get("content-type", "")
    asked = asked_under(key, entry, body=entry.body_as_received(), content_type=content_type)
    store = store_of(entry)
    unit = _KeyedUnit(work(), entry)
    unit.work.name(asked.scope)
    answer = unit.begin(store, asked)
    if answer is not None:
        unit.work.rollback()  # what was written before the key was asked for
        raise Replay(answer)
    entry.unit = unit
    return unit.work


def replayed(replay: Replay) -> Response:
    """Give the first answer again, byte for byte."""
    answer = replay.answer
    headers = [*answer.headers, (idempotency.REPLAYED_HEADER, "true")]
    response = current_app.response_class(answer.body, answer.status, headers)
    if not any(name == "content-type" for name, _ in answer.headers):
        del response.content_type  # or Flask's own would be put there
    return response


class _Unit:
    """A unit of work as the edge sees it."""

    holds = False

    def __init__(self, work: Work, entry: WsgiEntry) -> None:
        self.work = work
        self.entry = entry

    def fail(self) -> None:
        self.work.has_raised = True

    def settle(self, status: int, headers: Pairs, body: bytes | None) -> None:
        self.work._settle(keeps=self.work.is_kept(self.entry.method, status))

    def close(self, error: BaseException | None) -> None:
        if error is None:
            self.work.warn_of_unsent()
        self.work._close()


class _KeyedUnit(_Unit):
    """The same under an `Idempotency-Key`: the station of `idempotency.once`, which stands still
    while the view works.
    """

    holds = True

    def __init__(self, work: Work, entry: WsgiEntry) -> None:
        super().__init__(work, entry)
        self._steps: Steps[Answer] | None = None

    def begin(self, store: idempotency.Store[Any], asked: idempotency.Request) -> Answer | None:
        """Claim the key; returns the answer that was given before, if there is one."""
        handler: Step[Answer] = Step()
        self._steps = idempotency.once(
            store,
            asked,
            idempotency.Work(
                handle=handler,
                session=self._session,
                commit=Step(self.work.commit),
                rollback=Step(self.work.rollback),
            ),
        )
        return drive(self._steps, until=handler)

    def settle(self, status: int, headers: Pairs, body: bytes | None) -> None:
        steps, self._steps = self._steps, None
        if steps is None:
            return
        answer = stored(self.work, self.entry, status, headers, body)
        drive(steps, lambda steps: steps.send(answer))
        self.work._settle(keeps=False)  # what is kept is committed by now

    def close(self, error: BaseException | None) -> None:
        steps, self._steps = self._steps, None
        if steps is not None:
            given_up = error or RuntimeError("the view gave no answer")
            with suppress(BaseException):  # it comes back when the key is free
                drive(steps, lambda steps: steps.throw(given_up))
        failpoints.reach("keys.after_answer")
        super().close(error)

    def _session(self) -> Session | None:
        """The transaction that the answer is written in; a store that is no database needs none."""
        return self.work.session if self.work.has_database else None


def _entry() -> WsgiEntry:
    if not has_request_context():
        raise RuntimeError(
            "there is no request here, and so no work of one: open a unit of work of its own, "
            "with database.session() as session: …"
        )
    entry = request.environ.get(ENTRY)
    if not isinstance(entry, WsgiEntry):
        raise Misconfigured(
            "this application has not passed the stations: make it with mainstay's create_app"
        )
    return entry


def _translated(*, committing: bool) -> AbstractContextManager[None]:
    from mainstay.resources.sqlalchemy.failures import translated

    return translated(committing=committing)
