"""What can go wrong, and what is then to be done with the work.

    MainstayError
    ├── Retry                    the work is sound: try it again later
    │   ├── Unavailable          a server that is needed does not answer
    │   │   ├── NotConnected     nothing was sent: safe to send again
    │   │   ├── Disconnected     the connection broke under way: the outcome is unknown
    │   │   ├── Unconfirmed      the broker did not confirm in time: the outcome is unknown
    │   │   └── NoRoute          nobody listens on that queue: nothing was sent
    │   ├── DeadlineExceeded     no answer before the deadline: the outcome is unknown
    │   ├── Overloaded           this process has as much as it may hold
    │   └── LimitExceeded        this caller has asked more often than it may
    ├── Refuse                   the request is wrong: tell the caller, do not try again
    │   ├── Malformed            it cannot be read at all
    │   ├── Invalid              it can be read and does not fit; names the fields
    │   ├── TooLarge             it is larger than it may be
    │   ├── UnsupportedType      it is of a type that is not accepted
    │   ├── NotAuthenticated     nobody has vouched for the caller
    │   ├── NotAllowed           the caller is known and may not do this
    │   ├── NotFound             there is no such thing
    │   ├── Conflict             it contradicts what is there
    │   │   ├── UnderWay         the same request is being worked on
    │   │   ├── AlreadyDone      the same work was done before: drop this delivery
    │   │   └── Fenced           another worker has taken the work over: roll back
    │   └── PreconditionFailed   the thing has changed since the caller read it
    ├── Bury                     the work can never succeed: dead-letter it
    │   └── RemoteFailure        the other side did the work and it failed
    └── Misconfigured            the process must not start (exit 78)
        └── MissingExtra         a technology is asked for and not installed

A way in translates a family into its own terms: a status code, an acknowledgement, an exit code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "AlreadyDone",
    "Bury",
    "Conflict",
    "DeadlineExceeded",
    "Disconnected",
    "Fenced",
    "FieldError",
    "Invalid",
    "LimitExceeded",
    "MainstayError",
    "Malformed",
    "Misconfigured",
    "MissingExtra",
    "NoRoute",
    "NotAllowed",
    "NotAuthenticated",
    "NotConnected",
    "NotFound",
    "Overloaded",
    "PreconditionFailed",
    "Refuse",
    "RemoteFailure",
    "Retry",
    "TooLarge",
    "Unavailable",
    "Unconfirmed",
    "UnderWay",
    "UnsupportedType",
]


class MainstayError(Exception):
    """Everything this library raises on purpose.

    The message says what happened, to what, and what to do; it never holds a secret.
    """

    title: ClassVar[str] = "Something went wrong"

    @property
    def detail(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        # Worker pools hand errors from process to process as pickles, which by default call the
        # class with the message alone.
        return _again, (type(self), self.args, self.__dict__)


def _again(
    kind: type[MainstayError], args: tuple[object, ...], facts: dict[str, object]
) -> MainstayError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(facts)
    return error


class Retry(MainstayError):
    """The work is sound and may succeed later.

    Args:
        message: What happened, to what, and what to do.
        retry_after_seconds: How long to wait at least; ``None`` when nothing is known.
    """

    title = "Try again later"
    default_retry_after_seconds: ClassVar[float | None] = None

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = (
            self.default_retry_after_seconds if retry_after_seconds is None else retry_after_seconds
        )


class Unavailable(Retry):
    """A server that is needed does not answer."""

    title = "Service unavailable"
    default_retry_after_seconds = 1.0


class NotConnected(Unavailable):
    """There is no connection; nothing was sent, so sending again is safe."""


class Disconnected(Unavailable):
    """The connection broke after the message had left: the outcome is unknown."""


class Unconfirmed(Unavailable):
    """The broker did not confirm in time: the message may be stored or not."""


class NoRoute(Unavailable):
    """No queue took the message: nobody listens there."""


class DeadlineExceeded(Retry):
    """No answer came before the deadline: the outcome is unknown."""

    title = "Deadline exceeded"


class Overloaded(Retry):
    """This process holds as much work as it may."""

    title = "Overloaded"
    default_retry_after_seconds = 1.0


class LimitExceeded(Retry):
    """This caller has asked more often than it may.

    Args:
        limit: Requests admitted in a window.
        window_seconds: Length of the window.
    """

    title = "Too many requests"

    def __init__(
        self, message: str, *, retry_after_seconds: float, limit: int, window_seconds: int
    ) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.limit = limit
        self.window_seconds = window_seconds


class Refuse(MainstayError):
    """The request is wrong; doing it again changes nothing."""

    title = "Bad request"


class Malformed(Refuse):
    """The request cannot be read at all."""

    title = "Malformed request"


@dataclass(frozen=True, slots=True)
class FieldError:
    """One value that does not fit: a JSON pointer (RFC 6901) to it, and what is accepted."""

    pointer: str
    detail: str


class Invalid(Refuse):
    """The request can be read and does not fit; ``errors`` names each field."""

    title = "Request does not fit"

    def __init__(self, message: str, *, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(message)
        self.errors = tuple(errors)


class TooLarge(Refuse):
    """The request is larger than it may be."""

    title = "Request too large"


class UnsupportedType(Refuse):
    """The request's content type is not accepted."""

    title = "Unsupported media type"


class NotAuthenticated(Refuse):
    """Nobody has vouched for the caller."""

    title = "Not authenticated"


class NotAllowed(Refuse):
    """The caller is known and may not do this."""

    title = "Not allowed"


class NotFound(Refuse):
    """There is no such thing."""

    title = "Not found"


class Conflict(Refuse):
    """The request contradicts what is there."""

    title = "Conflict"


class UnderWay(Conflict):
    """The same request is being worked on: its answer can be had a little later."""

    title = "Request under way"

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class AlreadyDone(Conflict):
    """The same work was done before, and its effect is there: this delivery is to be dropped.

    Args:
        work: What identifies the work, where it was done here; empty in what a call was answered.
    """

    title = "Already done"

    def __init__(self, message: str, *, work: str = "") -> None:
        super().__init__(message)
        self.work = work


class Fenced(Conflict):
    """Another worker has taken the work over: what this one did is to be rolled back.

    Args:
        work: As `AlreadyDone` has it.
    """

    title = "Taken over"

    def __init__(self, message: str, *, work: str = "") -> None:
        super().__init__(message)
        self.work = work


class PreconditionFailed(Refuse):
    """The thing has changed since the caller read it."""

    title = "Precondition failed"


class Bury(MainstayError):
    """The work can never succeed: it belongs with the dead letters, with this reason."""

    title = "Cannot be done"


class RemoteFailure(Bury):
    """The other side did the work and it failed.

    Args:
        type: Name of the exception on the other side.
        detail: What it said; made for people, without internals.
    """

    title = "Failed on the other side"

    def __init__(self, type: str, detail: str) -> None:
        super().__init__(f"{type}: {detail}" if detail else type)
        self.type = type
        self._detail = detail

    @property
    def detail(self) -> str:
        return self._detail


class Misconfigured(MainstayError):
    """The process must not start; a command answers with exit code 78 (EX_CONFIG of sysexits.h)."""

    title = "Bad configuration"
    exit_code: ClassVar[int] = 78


class MissingExtra(Misconfigured):
    """A technology is asked for and not installed; the message has the command that installs it."""
