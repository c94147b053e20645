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
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field, replace

__all__ = [
    "CORRELATION_ID",
    "PRINCIPAL_TOKEN",
    "TIMEOUT_SECONDS",
    "TRACEPARENT",
    "TRACESTATE",
    "Context",
    "Principal",
    "activate",
    "current",
    "identify",
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
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\Z")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
# The specification asks for at least 512 characters of tracestate to be passed on.
_TRACESTATE_LIMIT = 512


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


@dataclass(frozen=True, slots=True)
class Context:
    """The identity of one unit of work.

    Args:
        correlation_id: One id for everything that one outside request causes.
        trace_id: 32 lower-case hexadecimal digits.
        span_id: 16 digits: this unit's own span.
        parent_id: 16 digits: the span that caused it; empty at the edge.
        sampled: Whether the caller records this trace.
        tracestate: The vendors' part of the trace, passed on as it came.
        principal: Who asked, once verified.
        deadline: When the caller stops waiting, on this process' monotonic clock.
    """

    correlation_id: str
    trace_id: str
    span_id: str
    parent_id: str = ""
    sampled: bool = True
    tracestate: str = ""
    principal: Principal | None = None
    deadline: float | None = None

    @classmethod
    def new(cls) -> Context:
        """Begin at the edge: new ids, no caller."""
        return cls.extract({})

    @classmethod
    def extract(cls, headers: Mapping[str, str]) -> Context:
        """Continue what *headers* (lower-case names) say, or begin where they say nothing usable.

        Header values come from outside: what does not have the exact form is replaced, so that
        nothing else can reach a log line or another wire. The principal is not read here: only
        authentication may set it.
        """
        ids = os.urandom(40).hex()  # one system call for the three ids that may be needed
        correlation_id = headers.get(CORRELATION_ID) or headers.get(REQUEST_ID)
        if correlation_id is None or not _CORRELATION_ID.match(correlation_id):
            correlation_id = ids[48:]
        trace_id, parent_id, sampled, tracestate = ids[:32], "", True, ""
        traceparent = headers.get(TRACEPARENT)
        if traceparent is not None and (match := _TRACEPARENT.match(traceparent)):
            caller_trace, caller_span, flags = match.groups()
            if caller_trace != _NO_TRACE and caller_span != _NO_SPAN:
                trace_id, parent_id = caller_trace, caller_span
                sampled = bool(int(flags, 16) & 1)
                state = headers.get(TRACESTATE, "")
                if len(state) <= _TRACESTATE_LIMIT and state.isascii() and state.isprintable():
                    tracestate = state
        return cls(
            correlation_id,
            trace_id,
            ids[32:48],
            parent_id,
            sampled,
            tracestate,
            deadline=_deadline(headers.get(TIMEOUT_SECONDS)),
        )

    def inject(self) -> dict[str, str]:
        """Return the headers that carry this context over the next wire."""
        headers = {CORRELATION_ID: self.correlation_id, TRACEPARENT: self.traceparent}
        if self.tracestate:
            headers[TRACESTATE] = self.tracestate
        if self.principal is not None and self.principal.token:
            headers[PRINCIPAL_TOKEN] = self.principal.token
        if self.deadline is not None:
            headers[TIMEOUT_SECONDS] = f"{max(self.deadline - time.monotonic(), 0.0):.3f}"
        return headers

    @property
    def traceparent(self) -> str:
        """The W3C header value that names this unit's span as the parent of what comes next."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def child(self) -> Context:
        """Return the context of a span inside this unit."""
        return replace(self, span_id=os.urandom(8).hex(), parent_id=self.span_id)

    def remaining_seconds(self, default: float) -> float:
        """Return how long an outgoing call may take: what is left of the deadline, at most
        *default*, never below zero.
        """
        if self.deadline is None:
            return default
        return max(min(self.deadline - time.monotonic(), default), 0.0)


def new_id() -> str:
    """Return a new random id of 32 hexadecimal digits."""
    return os.urandom(16).hex()


def _deadline(timeout: str | None) -> float | None:
    if timeout is None:
        return None
    try:
        seconds = float(timeout)
    except ValueError:
        return None
    # A caller may shorten our limits, not lift them; nan and inf compare false here.
    return time.monotonic() + seconds if 0.0 <= seconds < 86_400.0 else None


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
        _current.set(replace(context, principal=principal))


@contextmanager
def use(context: Context) -> Iterator[Context]:
    """Make *context* current inside a ``with`` block."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)
