"""What travels with a unit of work: who asked, under which id and trace, and until when.

The context of the work at hand is a context variable, so it follows ``await`` and is set again
in worker threads by the ways in. It leaves a process as headers, by the same names on every wire:

======================  ==========================================================================
``x-correlation-id``    1-128 of ``A-Za-z0-9._-``; ``x-request-id`` is understood on the way in
``traceparent``         W3C Trace Context, https://www.w3.org/TR/trace-context/ (version 00)
``tracestate``          passed on as it came
``x-mainstay-token``    the principal as a signed token, which the receiver verifies
``x-timeout-seconds``   what is left of the deadline, as a decimal number
======================  ==========================================================================
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = [
    "CORRELATION_ID",
    "PRINCIPAL_TOKEN",
    "TIMEOUT_SECONDS",
    "TRACEPARENT",
    "TRACESTATE",
    "Context",
    "Principal",
    "Wait",
    "activate",
    "current",
    "identify",
    "is_id",
    "new_id",
    "restore",
    "use",
]

CORRELATION_ID = "x-correlation-id"
REQUEST_ID = "x-request-id"
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
PRINCIPAL_TOKEN = "x-mainstay-token"
TIMEOUT_SECONDS = "x-timeout-seconds"

_CORRELATION_ID = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")
# Ids of nothing but zeros are none.
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})\Z")
# The specification asks for at least 512 characters of tracestate to be passed on.
_TRACESTATE_LIMIT = 512
_LONGEST_SECONDS = 86_400.0

# Ids tell work apart and protect nothing, so they need no system call each. A generator of our
# own, which nobody seeds; a forked child would draw its parent's numbers again.
_random = random.Random()  # noqa: S311 - see above
os.register_at_fork(after_in_child=_random.seed)


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who was vouched for by a verified token.

    Args:
        subject: The token's ``sub``: a stable id, never a name for people.
        roles: What the principal may act as.
        token: The verified token itself, which is passed on to the next service.
    """

    subject: str
    roles: frozenset[str] = frozenset()
    token: str = field(default="", repr=False)


class Wait:
    """Does the caller still wait for an answer?

    One object for all the tasks and threads that work for it: each has a context of its own.
    """

    __slots__ = ("is_over",)

    def __init__(self) -> None:
        self.is_over = False


class Context(NamedTuple):
    """The identity of one unit of work.

    A tuple, because every unit makes one: a frozen data class takes four times as long.

    Args:
        correlation_id: One id for everything that one outside request causes.
        trace_id: 32 lower-case hexadecimal digits.
        span_id: 16 digits: this unit's own span.
        parent_id: 16 digits: the span that caused it; empty at the edge.
        sampled: Whether the caller records this trace.
        tracestate: The vendors' part of the trace, passed on as it came.
        principal: Who asked, once verified.
        deadline: When the caller stops waiting, on this process' monotonic clock.
        wait: Once the answer has begun, the deadline limits nothing any more: neither what a
            stream does on its way nor what is done in the background.
    """

    correlation_id: str
    trace_id: str
    span_id: str
    parent_id: str = ""
    sampled: bool = True
    tracestate: str = ""
    principal: Principal | None = None
    deadline: float | None = None
    wait: Wait | None = None

    @classmethod
    def new(cls) -> Context:
        """Begin at the edge: new ids, no caller."""
        return cls.extract({})

    @classmethod
    def extract(cls, headers: Mapping[str, str], *, limit_seconds: float | None = None) -> Context:
        """Continue what *headers* (lower-case names) say, or begin where they say nothing usable.

        Header values come from outside: what does not have the exact form is replaced, so that
        nothing else can reach a log line or another wire. The principal is not read here: only
        authentication may set it.

        Args:
            limit_seconds: How long we wait ourselves; a caller may shorten that, never lift it.
        """
        get = headers.get
        return cls.read(
            get(CORRELATION_ID) or get(REQUEST_ID),
            get(TRACEPARENT),
            get(TRACESTATE),
            get(TIMEOUT_SECONDS),
            limit_seconds=limit_seconds,
        )

    @classmethod
    def read(
        cls,
        correlation_id: str | None,
        traceparent: str | None,
        tracestate: str | None,
        timeout: str | None,
        *,
        limit_seconds: float | None,
        is_endless: bool = False,
    ) -> Context:
        """As :meth:`extract`, for a wire that finds its headers faster by itself.

        Args:
            is_endless: The work may go on for ever: our limit is not its deadline.
        """
        if correlation_id is None or not _CORRELATION_ID.match(correlation_id):
            correlation_id = _random.randbytes(16).hex()
        trace_id = parent_id = state = ""
        sampled = True
        if traceparent is not None and (match := _TRACEPARENT.match(traceparent)):
            trace_id, parent_id, flags = match.groups()
            sampled = flags == "01" or bool(int(flags, 16) & 1)
            if tracestate is not None and _is_state(tracestate):
                state = tracestate
        seconds = limit_seconds if timeout is None else _shortened(timeout, limit_seconds)
        if is_endless and seconds == limit_seconds:
            seconds = None
        # What the constructor does, without the function that it is: half of the time.
        return tuple.__new__(
            cls,
            (
                correlation_id,
                trace_id or _random.randbytes(16).hex(),
                _random.randbytes(8).hex(),
                parent_id,
                sampled,
                state,
                None,
                None if seconds is None else time.monotonic() + seconds,
                Wait(),
            ),
        )

    def inject(self) -> dict[str, str]:
        """Return the headers that carry this context over the next wire."""
        headers = {CORRELATION_ID: self.correlation_id, TRACEPARENT: self.traceparent}
        if self.tracestate:
            headers[TRACESTATE] = self.tracestate
        if self.principal is not None and self.principal.token:
            headers[PRINCIPAL_TOKEN] = self.principal.token
        if self.deadline is not None and not self._is_answered:
            headers[TIMEOUT_SECONDS] = f"{max(self.deadline - time.monotonic(), 0.0):.3f}"
        return headers

    @property
    def traceparent(self) -> str:
        """The W3C header value that names this unit's span as the parent of what comes next."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def child(self) -> Context:
        """Return the context of a span inside this unit."""
        return self._replace(span_id=_random.randbytes(8).hex(), parent_id=self.span_id)

    def remaining_seconds(self, default: float) -> float:
        """Return how long an outgoing call may take: what is left of the deadline, at most
        *default*, never below zero.
        """
        if self.deadline is None or self._is_answered:
            return default
        return max(min(self.deadline - time.monotonic(), default), 0.0)

    @property
    def _is_answered(self) -> bool:
        return self.wait is not None and self.wait.is_over


def is_id(text: str) -> bool:
    """Has *text* the form of a correlation id, so that it is safe on every wire?"""
    return _CORRELATION_ID.match(text) is not None


def new_id() -> str:
    """Return a new random id of 32 hexadecimal digits."""
    return os.urandom(16).hex()


def _is_state(text: str) -> bool:
    return len(text) <= _TRACESTATE_LIMIT and text.isascii() and text.isprintable()


def _shortened(timeout: str, limit_seconds: float | None) -> float | None:
    try:
        seconds = float(timeout)
    except ValueError:
        return limit_seconds
    # nan and inf compare false here
    longest = _LONGEST_SECONDS if limit_seconds is None else limit_seconds
    return seconds if 0.0 <= seconds < longest else limit_seconds


_current: ContextVar[Context | None] = ContextVar("mainstay_context", default=None)


def current() -> Context | None:
    """Return the context of the work at hand, or ``None`` outside of any."""
    return _current.get()


def activate(context: Context) -> Token[Context | None]:
    """Make *context* current; give the returned token to :func:`restore`."""
    return _current.set(context)


def restore(token: Token[Context | None]) -> None:
    """Undo :func:`activate`."""
    _current.reset(token)


def identify(principal: Principal) -> None:
    """Set who asks, once authenticated, for the work at hand; ended by :func:`restore`."""
    context = _current.get()
    if context is not None:
        _current.set(context._replace(principal=principal))


@contextmanager
def use(context: Context) -> Iterator[Context]:
    """Make *context* current inside a ``with`` block."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)
