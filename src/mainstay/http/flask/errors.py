"""Every error of a Flask application as a problem document.

What the framework raises is brought into our own errors first, so one place decides about status
codes and words.
"""

from __future__ import annotations

from flask import Flask, Response, current_app, got_request_exception, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

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

__all__ = ["allowed", "install", "respond"]


def install(app: Flask) -> None:
    """Answer every exception that leaves a view of *app* with a problem document."""
    app.register_error_handler(HTTPException, _of_framework)
    app.register_error_handler(MainstayError, _of_ours)
    app.register_error_handler(Exception, _of_anything)


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
    """Return *methods* as `Allow` has them."""
    return ", ".join(sorted(methods | {"OPTIONS"}))


def _of_ours(error: MainstayError) -> Response:
    return respond(problem_of(error), error)


def _of_anything(error: Exception) -> Response:
    # What watches an application for errors (Sentry does) listens to Flask's signal for those
    # that no handler answers.
    got_request_exception.send(current_app._get_current_object(), exception=error)  # type: ignore[attr-defined]  # of a proxy
    error = as_error(error)
    return respond(problem_of(error), error)


def _of_framework(error: HTTPException) -> Response:
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


def _told(error: HTTPException) -> str:
    """Return what the author said; what Werkzeug says by itself is no news."""
    own = type(error).description
    is_told = isinstance(own, str) and error.description != own
    return (error.description or "") if is_told else ""
