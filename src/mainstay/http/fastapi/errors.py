"""Every error of a FastAPI application as a problem document.

What the framework raises is brought into our own errors first, so one place decides about status
codes and words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from mainstay.errors import MainstayError, Malformed
from mainstay.http import misfits
from mainstay.http.asgi import ENTRY
from mainstay.http.entry import HttpEntry
from mainstay.http.problems import (
    MEDIA_TYPE,
    Problem,
    as_error,
    not_allowed,
    problem_of,
    problem_of_framework,
)

__all__ = ["install", "of_anything", "respond"]


def install(app: FastAPI) -> None:
    """Answer every exception that leaves a handler of *app* with a problem document."""
    app.add_exception_handler(HTTPException, _of_framework)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(MainstayError, _of_ours)
    app.add_exception_handler(Exception, of_anything)


def respond(request: Request, problem: Problem, error: Exception | None = None) -> Response:
    """Make the answer, and let the request's log line know why it is one."""
    entry: HttpEntry | None = request.scope.get(ENTRY)
    correlation_id, instance = "", request.url.path
    if entry is not None:
        correlation_id, instance = entry.correlation_id, entry.instance
        entry.failure = error
        entry.is_misfit = misfits.is_misfit(error)
    return Response(
        problem.document(instance=instance, correlation_id=correlation_id),
        problem.status,
        {**dict(problem.headers), "cache-control": "no-store"},
        MEDIA_TYPE,
    )


async def _of_ours(request: Request, error: Exception) -> Response:
    return respond(request, problem_of(error), error)


async def of_anything(request: Request, error: Exception) -> Response:
    """Answer what no other handler answers."""
    error = as_error(error)
    return respond(request, problem_of(error), error)


async def _of_framework(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return await of_anything(request, error)
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
        malformed = misfits.no_json()
        return respond(request, problem_of(malformed), malformed)
    said: Any = error.detail
    # By itself the framework says no more than the status code does.
    is_told = isinstance(said, str) and said != Problem.of_status(status).title
    problem = problem_of_framework(status, said if is_told else "", tuple(headers.items()))
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
        return await of_anything(request, error)
    refusal = _refusal(error.errors(), error.body, request.headers.get("content-type", ""))
    return respond(request, problem_of(refusal), refusal)


def _refusal(errors: Sequence[Any], body: object, content_type: str) -> MainstayError:
    for one in errors:
        if one["type"] == "missing" and tuple(one["loc"]) == ("header", "Idempotency-Key"):
            return misfits.no_key()
        if one["type"] == "json_invalid":
            reason = one.get("ctx", {}).get("error", "it cannot be read")
            return Malformed(f"the body is not JSON: {reason}")
    in_body = any(one["loc"] and one["loc"][0] == "body" for one in errors)
    if in_body and isinstance(body, bytes):
        refusal = misfits.other_type(content_type)
        if refusal is not None:
            return refusal
    return misfits.misfit(errors)
