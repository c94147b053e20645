"""Every error of a FastAPI application as a problem document.

What the framework raises is brought into our own errors first, so one place decides about status
codes and words.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from mainstay.errors import (
    FieldError,
    Invalid,
    MainstayError,
    Malformed,
    NotAuthenticated,
    TooLarge,
    UnsupportedType,
)
from mainstay.http.asgi import ENTRY
from mainstay.http.bodies import is_json, pointer_to
from mainstay.http.entry import HttpEntry
from mainstay.http.problems import MEDIA_TYPE, Problem, problem_of

__all__ = ["as_error", "install", "not_allowed", "respond"]

_MISFITS = (Invalid, Malformed, TooLarge, UnsupportedType)
_DETAILS = {
    404: "There is nothing at this address.",
    405: "This address does not take that method; the Allow header names those it takes.",
}


def install(app: FastAPI) -> None:
    """Answer every exception that leaves a handler of *app* with a problem document."""
    app.add_exception_handler(HTTPException, _of_framework)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(MainstayError, _of_ours)
    app.add_exception_handler(Exception, _of_anything)


def respond(request: Request, problem: Problem, error: Exception | None = None) -> Response:
    """Make the answer, and let the request's log line know why it is one."""
    entry: HttpEntry | None = request.scope.get(ENTRY)
    correlation_id, instance = "", request.url.path
    if entry is not None:
        correlation_id, instance = entry.correlation_id, entry.instance
        entry.failure = error
        entry.is_misfit = isinstance(error, _MISFITS)
    return Response(
        problem.document(instance=instance, correlation_id=correlation_id),
        problem.status,
        {**dict(problem.headers), "cache-control": "no-store"},
        MEDIA_TYPE,
    )


def not_allowed(allowed: str) -> Problem:
    """Return the problem of a method that an address does not take."""
    return Problem.of_status(405, _DETAILS[405], (("allow", allowed),))


def as_error(error: Exception) -> Exception:
    """Return what *error* is called here: passing conditions of a database are ours to name."""
    if "sqlalchemy" not in sys.modules:
        return error
    from mainstay.resources.sqlalchemy.failures import as_retry

    return as_retry(error) or error


async def _of_ours(request: Request, error: Exception) -> Response:
    return respond(request, problem_of(error), error)


async def _of_anything(request: Request, error: Exception) -> Response:
    error = as_error(error)
    return respond(request, problem_of(error), error)


async def _of_framework(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return await _of_anything(request, error)
    status, headers = error.status_code, dict(error.headers or {})
    if status == 405:
        allowed = _allowed(request, headers.get("Allow", ""))
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"allow": allowed})
        return respond(request, not_allowed(allowed), error)
    if status < 400:
        return Response(status_code=status, headers=headers)
    if status == 400 and isinstance(error.__cause__, ValueError):
        # A body that Python could not even decode.
        malformed = Malformed("the body is not JSON in UTF-8: send what its Content-Type says")
        return respond(request, problem_of(malformed), malformed)
    said: Any = error.detail
    detail = said if isinstance(said, str) else ""
    problem = Problem.of_status(status, detail, tuple(headers.items()))
    if detail == problem.title:  # the framework's own
        problem = Problem.of_status(status, _DETAILS.get(status, detail), problem.headers)
    if status == 401 and "www-authenticate" not in {name.lower() for name in headers}:
        problem = problem_of(NotAuthenticated(problem.detail))
    return respond(request, problem, error)


def _allowed(request: Request, of_one_route: str) -> str:
    """Name every method of an address: a route that refuses one knows its own methods alone."""
    methods = {method.strip().upper() for method in of_one_route.split(",") if method.strip()}
    entry: HttpEntry | None = request.scope.get(ENTRY)
    if entry is not None:
        methods.update(method.upper() for method in _documented(request.app, entry.route))
    if "GET" in methods:
        methods.add("HEAD")
    return ", ".join(sorted(methods | {"OPTIONS"}))


def _documented(app: FastAPI, template: str) -> Iterable[str]:
    operations: Mapping[str, Any] = app.openapi().get("paths", {}).get(template, {})
    return (name for name in operations if name != "parameters")


async def _of_validation(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        return await _of_anything(request, error)
    refusal = _refusal(error.errors(), error.body, request.headers.get("content-type", ""))
    return respond(request, problem_of(refusal), refusal)


def _refusal(errors: Sequence[Any], body: object, content_type: str) -> MainstayError:
    for one in errors:
        if one["type"] == "missing" and tuple(one["loc"]) == ("header", "Idempotency-Key"):
            return Malformed("this needs an Idempotency-Key header: send a new random one")
        if one["type"] == "json_invalid":
            reason = one.get("ctx", {}).get("error", "it cannot be read")
            return Malformed(f"the body is not JSON: {reason}")
    in_body = any(one["loc"] and one["loc"][0] == "body" for one in errors)
    if in_body and isinstance(body, bytes) and not is_json(content_type):
        sent = f"of type {content_type!r}" if content_type else "without a Content-Type"
        return UnsupportedType(f"the body was sent {sent}: send it as application/json")
    fields = [_field(one) for one in errors]
    names = ", ".join(field.pointer or "the body" for field in fields[:5])
    more = f" and {len(fields) - 5} more" if len(fields) > 5 else ""
    return Invalid(f"the request does not fit: {names}{more}", errors=fields)


def _field(error: Any) -> FieldError:
    """Point at the value: into the body, or at a parameter by its name."""
    location, *path = error["loc"]
    message: str = error["msg"]
    if location == "body":
        return FieldError(pointer_to(tuple(path)), message)
    return FieldError(pointer_to(tuple(path)), f"{location} parameter: {message}")
