"""Every error of a Flask application as a problem document.

What the framework raises is brought into our own errors first, so one place decides about status
codes and words.
"""

from __future__ import annotations

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, InternalServerError, MethodNotAllowed

from mainstay.errors import MainstayError
from mainstay.http import misfits
from mainstay.http.problems import (
    MEDIA_TYPE,
    Problem,
    as_error,
    not_allowed,
    problem_of,
    problem_of_framework,
)
from mainstay.http.wsgi import ENTRY, WsgiEntry

__all__ = ["allowed", "install", "note", "of_framework", "respond", "undo_work"]


def install(app: Flask) -> None:
    """Answer every error of ours that leaves a view of *app* with a problem document.

    What else leaves it is for the author's handlers, and then for :func:`of_framework`.
    """
    app.register_error_handler(MainstayError, _of_ours)
    # What a test or a debugger sees is what a client sees.
    app.config["PROPAGATE_EXCEPTIONS"] = False


def of_framework(error: HTTPException) -> Response:
    """Answer an exception of the framework that no handler answered.

    An :exc:`InternalServerError` of Flask's stands for the exception that it names.
    """
    original = error.original_exception if isinstance(error, InternalServerError) else None
    if isinstance(original, HTTPException):  # TRAP_HTTP_EXCEPTIONS, TRAP_BAD_REQUEST_ERRORS
        error = original
    elif isinstance(original, Exception):
        failure = as_error(original)
        return respond(problem_of(failure), failure)
    if error.response is not None:
        made: Response = error.get_response(request.environ)  # type: ignore[assignment]  # the author's
        return made
    if isinstance(error, MethodNotAllowed):
        return respond(not_allowed(allowed(set(error.valid_methods or ()))), error)
    status = error.code or 500
    headers = [
        (name, value)
        for name, value in error.get_headers(request.environ)
        if name.lower() != "content-type"
    ]
    if status < 400:  # where to go instead
        return Response(status=status, headers=headers)
    return respond(problem_of_framework(status, _told(error), tuple(headers)), error)


def undo_work() -> None:
    """Have what a view did be undone, which has raised: whoever answers that, and with what."""
    entry: WsgiEntry | None = request.environ.get(ENTRY)
    if entry is not None and entry.unit is not None:
        entry.unit.fail()


def note(error: BaseException | None) -> None:
    """Let the request's log line know what was not handled, whoever answers it."""
    entry: WsgiEntry | None = request.environ.get(ENTRY)
    if entry is not None:
        entry.failure = as_error(error) if isinstance(error, Exception) else error


def respond(problem: Problem, error: Exception | None = None) -> Response:
    """Make the answer, and let the request's log line know why it is one."""
    entry: WsgiEntry | None = request.environ.get(ENTRY)
    correlation_id, instance = "", request.path
    if entry is not None:
        correlation_id, instance = entry.correlation_id, entry.instance
        entry.failure = error
        entry.is_misfit = misfits.is_misfit(error)
    return Response(
        problem.document(instance=instance, correlation_id=correlation_id),
        problem.status,
        [*problem.headers, ("cache-control", "no-store")],
        mimetype=MEDIA_TYPE,
    )


def allowed(methods: set[str]) -> str:
    """Return *methods* as `Allow` has them; where nothing is known of them, OPTIONS."""
    return ", ".join(sorted(methods or {"OPTIONS"}))


def _of_ours(error: MainstayError) -> Response:
    return respond(problem_of(error), error)


def _told(error: HTTPException) -> str:
    """Return what the author said; what Werkzeug says by itself is no news."""
    own = type(error).description
    is_told = isinstance(own, str) and error.description != own
    return (error.description or "") if is_told else ""
