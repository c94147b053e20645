"""What does a client hear when something goes wrong? A problem document (RFC 9457), always.

The only place that knows a status code for an error:

====================  ======  ================================================================
error                 status  besides
====================  ======  ================================================================
``Malformed``         400
``NotAuthenticated``  401     ``WWW-Authenticate``
``NotAllowed``        403
``NotFound``          404
``TimedOut``          408     the request's own body did not come in time
``Conflict``          409     ``UnderWay`` adds ``Retry-After``
``PreconditionFailed`` 412
``TooLarge``          413
``UnsupportedType``   415
``Invalid``           422     ``errors``: one JSON pointer and one sentence for each value
``LimitExceeded``     429     ``Retry-After``, ``RateLimit``, ``RateLimit-Policy``
``HeadersTooLarge``   431
``RemoteFailure``     502     the other side did the work and it failed; trying again is no use
``Retry``             503     ``Retry-After``: what is needed is away, or this process is full
``DeadlineExceeded``  504     the outcome is unknown
everything else       500     without a word of what happened inside
====================  ======  ================================================================
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from http import HTTPStatus

import orjson

from mainstay.errors import (
    Conflict,
    DeadlineExceeded,
    FieldError,
    Invalid,
    LimitExceeded,
    MainstayError,
    Malformed,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    PreconditionFailed,
    Refuse,
    RemoteFailure,
    Retry,
    TooLarge,
    UnderWay,
    UnsupportedType,
)
from mainstay.retries import is_transient

__all__ = [
    "MEDIA_TYPE",
    "HeadersTooLarge",
    "Problem",
    "TimedOut",
    "as_error",
    "not_allowed",
    "problem_of",
    "problem_of_framework",
    "status_of",
]

MEDIA_TYPE = "application/problem+json"

Headers = tuple[tuple[str, str], ...]


class TimedOut(Refuse):
    """The client took too long to send what it had announced."""

    title = "Request timeout"


class HeadersTooLarge(Refuse):
    """There are more headers, or longer ones, than are read."""

    title = "Request header fields too large"


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem, before it is written for a certain request.

    Args:
        status: The answer's status code.
        title: What kind of problem it is; the same for all of its kind.
        detail: What happened this time, to what, and what to do; made for people.
        type: A URI that names the kind; ``about:blank`` where the status code says it all.
        errors: The values that do not fit.
        headers: What the answer's header adds.
    """

    status: int
    title: str
    detail: str
    type: str = "about:blank"
    errors: tuple[FieldError, ...] = ()
    headers: Headers = ()

    def document(self, *, instance: str, correlation_id: str) -> bytes:
        """Write the document for the request at *instance*, a path without its query."""
        document: dict[str, object] = {
            "type": self.type,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            "correlation_id": correlation_id,
        }
        if self.errors:
            document["errors"] = [
                {"pointer": error.pointer, "detail": error.detail} for error in self.errors
            ]
        return orjson.dumps(document)

    @classmethod
    def of_status(cls, status: int, detail: str = "", headers: Headers = ()) -> Problem:
        """Return a problem that is known by its status code alone."""
        title = _phrase(status)
        return cls(status, title, detail or title, headers=headers)


# The first that fits is taken, so a leaf stands before its family.
_STATUS: tuple[tuple[type[MainstayError], int], ...] = (
    (Malformed, 400),
    (NotAuthenticated, 401),
    (NotAllowed, 403),
    (NotFound, 404),
    (TimedOut, 408),
    (Conflict, 409),
    (PreconditionFailed, 412),
    (TooLarge, 413),
    (UnsupportedType, 415),
    (Invalid, 422),
    (LimitExceeded, 429),
    (HeadersTooLarge, 431),
    (Refuse, 400),
    (RemoteFailure, 502),
    (DeadlineExceeded, 504),
    (Retry, 503),
)

_DETAILS = {
    404: "There is nothing at this address.",
    405: "This address does not take that method; the Allow header names those it takes.",
}
_INTERNAL = Problem(
    500,
    "Internal error",
    "The service failed while it worked on this request. The correlation id finds it in the log.",
    "urn:mainstay:problem:internal-error",
)
_UNAVAILABLE = Problem(
    503,
    "Service unavailable",
    "A server that is needed for this does not answer. Try again in a moment.",
    "urn:mainstay:problem:unavailable",
    headers=(("retry-after", "1"),),
)


def problem_of(error: BaseException) -> Problem:
    """Translate *error*; what is not ours is told without a word of its message."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return Problem(
                status,
                kind.title if error.title == MainstayError.title else error.title,
                error.detail,
                f"urn:mainstay:problem:{_slug(kind.__name__)}",
                error.errors if isinstance(error, Invalid) else (),
                _headers(error),
            )
    if isinstance(error, Exception) and is_transient(error):
        return _UNAVAILABLE
    return _INTERNAL


def status_of(error: BaseException) -> int:
    """Return the status code that *error* is answered with."""
    return problem_of(error).status


def problem_of_framework(status: int, detail: str, headers: Headers = ()) -> Problem:
    """Return the problem that a framework's own exception is.

    Args:
        detail: What the author said; empty for what the framework says by itself.
    """
    if status == 401 and "www-authenticate" not in {name.lower() for name, _ in headers}:
        return problem_of(NotAuthenticated(detail or _phrase(status)))
    return Problem.of_status(status, detail or _DETAILS.get(status, ""), headers)


def not_allowed(allowed: str) -> Problem:
    """Return the problem of a method that an address does not take.

    Args:
        allowed: Those that it takes, as `Allow` has them.
    """
    return Problem.of_status(405, _DETAILS[405], (("allow", allowed),))


def as_error(error: Exception) -> Exception:
    """Return what *error* is called here: passing conditions of a database are ours to name."""
    if "sqlalchemy" not in sys.modules:
        return error
    from mainstay.resources.sqlalchemy.failures import as_retry

    return as_retry(error) or error


def _headers(error: MainstayError) -> Headers:
    headers: list[tuple[str, str]] = []
    if isinstance(error, NotAuthenticated):
        headers.append(("www-authenticate", "Bearer"))
    if isinstance(error, Retry | UnderWay) and error.retry_after_seconds is not None:
        headers.append(("retry-after", str(max(math.ceil(error.retry_after_seconds), 1))))
    if isinstance(error, LimitExceeded):
        # Structured fields of draft-ietf-httpapi-ratelimit-headers-10.
        reset = max(math.ceil(error.retry_after_seconds or 0), 1)
        headers.append(("ratelimit-policy", f'"default";q={error.limit};w={error.window_seconds}'))
        headers.append(("ratelimit", f'"default";r=0;t={reset}'))
    return tuple(headers)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def _slug(name: str) -> str:
    return "".join(f"-{char.lower()}" if char.isupper() else char for char in name).strip("-")
