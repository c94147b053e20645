"""What a unit of work is, on an event loop and on a thread alike: who it is, what it may use, and
what of its answer is kept.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mainstay import context as contexts
from mainstay import idempotency
from mainstay.errors import Misconfigured
from mainstay.idempotency import Answer
from mainstay.outgoing import Caller, Sender

if TYPE_CHECKING:
    from sqlalchemy.orm import ORMExecuteState, Session

    from mainstay.http.exchange import Exchange
    from mainstay.service import Service

__all__ = [
    "KEY_DESCRIPTION",
    "KEY_PATTERN",
    "BaseWork",
    "Replay",
    "asked_under",
    "store_of",
    "stored",
]

KEY_PATTERN = '^(?!""$)[!-~]{1,255}$'
KEY_DESCRIPTION = (
    "Names the request, so that sending it again has no second effect: 1 to 255 visible ASCII "
    "characters, bare or in double quotes."
)

_logger = logging.getLogger(__name__)

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
# Of one connection or one moment, not of the answer itself; and a cookie is a secret of one client,
# that would lie in the store for as long as the answer is given again.
_NOT_STORED = frozenset(
    {
        "connection",
        "content-length",
        "date",
        "keep-alive",
        "server",
        "set-cookie",
        "transfer-encoding",
    }
)
_ANSWERED = "the request was answered, and its work committed"
# How statements begin that only read, and those that may; who writes in such a one is not found.
_READS = ("select", "values", "table", "show", "explain", "with", "pragma", "set")
_NAMESPACE = uuid.UUID("6a2f5c1e-2f0b-5d7c-9c1a-7f3f0d5b8e21")


class BaseWork:
    """What the units of work of both kinds have in common."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._keeps = False
        self.has_raised = False
        """Has the handler raised? What it did is undone then, whatever an author's error handler
        answers, unless it is kept."""
        self._is_answered = False
        self._has_sent = False
        self._named = 0
        self._scope: str | None = None

    @property
    def id(self) -> str:
        """What identifies this work: the same for every arrival of a request with one
        `Idempotency-Key`, random otherwise.
        """
        return str(self._id)

    @property
    def has_database(self) -> bool:
        """Is there a session to be had?"""
        return "database" in self._service.resources

    def name(self, scope: str) -> None:
        """Give the work the id that every arrival under one key has.

        Args:
            scope: Whose key it is done under, as `idempotency.Request` has it.
        """
        self._scope = scope
        self.__dict__.pop("_id", None)  # which was random, for who asked before

    @cached_property
    def _id(self) -> uuid.UUID:
        return uuid.uuid4() if self._scope is None else uuid.uuid5(_NAMESPACE, self._scope)

    def keep(self) -> None:
        """Commit also when the handler raises, or the answer is an error: for what must be
        remembered of a failure.
        """
        self._keeps = True

    def is_kept(self, method: str, status: int) -> bool:
        """Is it committed when a request with *method* is answered with *status*?"""
        changes = method not in _SAFE_METHODS or self._has_sent
        return self._keeps or (changes and status < 400 and not self.has_raised)

    def _next_id(self) -> str:
        """The first is the work's own, so that an author can name it before it is sent."""
        self._named += 1
        return self.id if self._named == 1 else str(uuid.uuid5(self._id, str(self._named)))

    @property
    def _caller(self) -> Caller:
        caller: Caller = self._held(Caller, "calls a server", "mainstay.rpc.Calls")
        return caller

    @property
    def _sender(self) -> Sender:
        sender: Sender = self._held(Sender, "sends a task", "a service with a Celery application")
        return sender

    def _held(self, kind: type[Any], does: str, example: str) -> Any:
        for resource in self._service.resources.values():
            if isinstance(resource, kind):
                return resource
        raise Misconfigured(f"the service holds nothing that {does}: it needs {example}")

    def _warn_of_open_transaction(self, queue: str, commit: str) -> None:
        message = (
            f"a call to {queue!r} while a transaction is open holds its connection and locks "
            f"until the answer comes: {commit} first"
        )
        if self._service.settings.is_dev:
            raise RuntimeError(message)
        _logger.warning(message)

    def _leaves_with_commit(self, instead: str) -> bool:
        """Note that a task is sent, and say whether it is with the commit of this work.

        Args:
            instead: What to write when the work is over.
        """
        database = self._service.resources.get("database")
        if database is None or not database.is_named:
            return False
        if self._is_answered:
            raise RuntimeError(f"{_ANSWERED}: send in a session of its own, {instead}")
        self._has_sent = True
        return True

    def _refuse_writes(self, session: Session, opened: str) -> None:
        """Let *session* only read from now on, when the work was answered: what is written in it
        would be rolled back, and nobody would hear of it.

        Args:
            opened: How to open a session for what is written later.
        """
        from sqlalchemy import TextClause, event

        def refuse(*_: object) -> None:
            raise RuntimeError(f"{_ANSWERED}: write in a session of its own, {opened}")

        def check(state: ORMExecuteState) -> None:
            statement = state.statement
            if isinstance(statement, TextClause):
                is_read = statement.text.lstrip("( \n\t").lower().startswith(_READS)
            else:
                is_read = state.is_select
            if not is_read:
                refuse()

        event.listen(session, "before_flush", refuse)
        event.listen(session, "do_orm_execute", check)

    def warn_of_unsent(self) -> None:
        """Say so when something was sent that never left."""
        if self._has_sent:
            _logger.warning("a task was sent in work that was never committed: it does not leave")


class Replay(Exception):
    """The request has been answered before; ends the handler before it begins."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("answered before")
        self.answer = answer


def asked_under(
    key: str, entry: Exchange, *, body: bytes, content_type: str
) -> idempotency.Request:
    """Describe the request at hand as a store of keys sees it.

    Raises:
        Malformed: The key has another form.
    """
    context = contexts.current()
    return idempotency.Request.of(
        idempotency.parse_key(key),
        operation=f"{entry.method} {entry.route}",
        target=entry.target,
        principal=context.principal.subject if context and context.principal else "",
        body=body,
        content_type=content_type,
        lease_seconds=entry.edge.timeout_seconds,
    )


def store_of(entry: Exchange) -> idempotency.Store[Any]:
    """Return where the keys of the application are kept.

    Raises:
        Misconfigured: Nowhere.
    """
    store = entry.edge.rules.idempotency
    if store is None:
        raise Misconfigured(
            "an Idempotency-Key cannot be kept: the service has neither a database nor Redis"
        )
    return store


def stored(
    work: BaseWork,
    entry: Exchange,
    status: int,
    headers: Iterable[tuple[str, str]],
    body: bytes | None,
) -> Answer:
    """Return what is stored of the answer to a request that *work* was done for."""
    kept = ((name.lower(), value) for name, value in headers)
    return Answer(
        status,
        tuple(pair for pair in kept if pair[0] not in _NOT_STORED),
        body or b"",
        fits=not entry.is_misfit,
        keeps=work.is_kept(entry.method, status),
        has_raised=work.has_raised,
    )
