"""The stations that every unit of work passes, whatever its way in, in their order.

    wire → decode → [ context → trace → log → measure → authenticate → limit → deduplicate
                      → handler ] → outcome → wire

Stations are written once, for blocking and for asyncio processes: they are generators that
*yield* each :class:`Step` that may have to wait, and :func:`drive` or :func:`adrive` does it.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar, overload

from mainstay import context as contexts
from mainstay.context import Context, Principal
from mainstay.errors import DeadlineExceeded, Refuse, Retry

if TYPE_CHECKING:
    from mainstay.service import Service
    from mainstay.traces import SpanKind

__all__ = [
    "Entry",
    "Step",
    "Steps",
    "adrive",
    "drive",
    "outcome_of",
    "stations",
]

T = TypeVar("T")


class Step(Generic[T]):
    """Something that may have to wait, as a blocking process and as asyncio does it.

    A way in that lives in one world only gives one of the two.
    """

    __slots__ = ("aio", "sync")

    def __init__(
        self,
        sync: Callable[[], T] | None = None,
        aio: Callable[[], Awaitable[T]] | None = None,
    ) -> None:
        self.sync = sync
        self.aio = aio


Steps = Generator[Step[Any], Any, T]
"""Stations on their way: they yield steps, are sent the results, and return a ``T``."""


Resume: TypeAlias = Callable[[Steps[T]], Step[Any]]
"""How to go on with steps from where they stand: ``lambda steps: steps.send(answer)``."""


@overload
def drive(steps: Steps[T], resume: Resume[T] = ...) -> T: ...
@overload
def drive(steps: Steps[T], resume: Resume[T] = ..., *, until: Step[Any]) -> T | None: ...
def drive(steps: Steps[T], resume: Resume[T] = next, *, until: Step[Any] | None = None) -> T | None:
    """Take *steps* to their end on this thread, or to the step *until*, where they then stand.

    They are left standing for what goes on outside of the stations, such as a framework that calls
    the handler by itself.
    """
    try:
        step = resume(steps)
        while step is not until:
            try:
                if step.sync is None:
                    raise TypeError("this step can only be awaited: use adrive()")
                value = step.sync()
            except BaseException as error:  # noqa: BLE001 - a station may answer it
                step = steps.throw(error)
            else:
                step = steps.send(value)
    except StopIteration as end:
        result: T = end.value
        return result
    return None


@overload
async def adrive(steps: Steps[T], resume: Resume[T] = ...) -> T: ...
@overload
async def adrive(steps: Steps[T], resume: Resume[T] = ..., *, until: Step[Any]) -> T | None: ...
async def adrive(
    steps: Steps[T], resume: Resume[T] = next, *, until: Step[Any] | None = None
) -> T | None:
    """As :func:`drive`, on this event loop."""
    try:
        step = resume(steps)
        while step is not until:
            try:
                if step.aio is None:
                    raise TypeError("this step can only be done blocking: use drive()")
                value = await step.aio()
            except BaseException as error:  # noqa: BLE001 - stations see cancellation too
                step = steps.throw(error)
            else:
                step = steps.send(value)
    except StopIteration as end:
        result: T = end.value
        return result
    return None


class Entry(ABC, Generic[T]):
    """One unit of work, as its way in sees it. One object a unit; used once."""

    kind: ClassVar[str]
    span_kind: ClassVar[SpanKind]

    @property
    @abstractmethod
    def headers(self) -> Mapping[str, str]:
        """What came over the wire, by lower-case name."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What the work is called, out of a bounded set; asked before and after the handler,
        because some wires know it only then.
        """

    def received(self) -> Context:
        """Continue the context that came over the wire, or begin one."""
        return Context.extract(self.headers)

    @abstractmethod
    def handle(self) -> Step[T]:
        """The handler."""

    def authenticate(self) -> Step[Principal | None] | None:
        """Who asks? Raises `NotAuthenticated` for a token that is there and wrong."""
        return None

    def admit(self) -> Step[None] | None:
        """May it be done now? Raises what the caller is to hear."""
        return None

    def deduplicate(self) -> Steps[T] | None:
        """Do the handler, or find that it was done already; ``None`` for just the handler."""
        return None

    def outcome(self, error: BaseException | None) -> str:
        """How it ended, out of a bounded set; a wire with its own words overrides it."""
        return outcome_of(error)

    @abstractmethod
    def measure(self, outcome: str, seconds: float) -> None:
        """Count it."""

    @abstractmethod
    def log(self, outcome: str, seconds: float, error: BaseException | None) -> None:
        """Write its one line."""


def outcome_of(error: BaseException | None) -> str:
    """Say how work ended: ``done``, ``expired``, ``retry``, ``refused``, ``cancelled`` or
    ``failed``.
    """
    if error is None:
        return "done"
    if isinstance(error, DeadlineExceeded):
        return "expired"
    if isinstance(error, Retry):
        return "retry"
    if isinstance(error, Refuse):
        return "refused"
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    return "failed"


def stations(entry: Entry[T], service: Service) -> Steps[T]:
    """Lead *entry* through every station and return what its handler returned.

    Whatever the handler raises has been logged, counted and noted on the span when it leaves
    here; the way in only translates it for its wire.
    """
    context = entry.received()
    traces = service.traces
    span = None
    if traces.enabled:
        span = traces.start(entry.name, kind=entry.span_kind, context=context)
        if span is not None:
            context = span.context
    token = contexts.activate(context)
    started = time.perf_counter()
    failure: BaseException | None = None
    try:
        if (asking := entry.authenticate()) is not None:
            principal = yield asking
            if principal is not None:
                contexts.identify(principal)
        if (admission := entry.admit()) is not None:
            yield admission
        steps = entry.deduplicate()
        if steps is not None:
            return (yield from steps)
        result: T = yield entry.handle()
        return result
    except BaseException as error:
        failure = error
        raise
    finally:
        seconds = time.perf_counter() - started
        outcome = entry.outcome(failure)
        entry.measure(outcome, seconds)
        entry.log(outcome, seconds, failure)
        if span is not None:
            span.end(entry.name, outcome, failure)
        contexts.restore(token)
