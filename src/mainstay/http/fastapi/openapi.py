"""What the OpenAPI document says of every operation: which problems it may answer with."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from mainstay.http.problems import MEDIA_TYPE

__all__ = ["PROBLEM_RESPONSES", "add_problem_schema"]

_REFERENCE = {"$ref": "#/components/schemas/Problem"}
_STATUSES = (400, 401, 403, 404, 405, 408, 409, 412, 413, 415, 422, 429, 431, 500, 502, 503, 504)
_WITH_RETRY = frozenset({409, 429, 503})

_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "What went wrong (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "correlation_id"],
    "properties": {
        "type": {
            "type": "string",
            "description": "A URI that names the kind of problem; about:blank where the status "
            "says it all.",
        },
        "title": {"type": "string", "description": "The kind of problem in words."},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "What happened this time."},
        "instance": {"type": "string", "description": "The path that was asked for."},
        "correlation_id": {"type": "string", "description": "Finds the request in the logs."},
        "errors": {
            "type": "array",
            "description": "The values that do not fit.",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {
                    "pointer": {
                        "type": "string",
                        "description": "A JSON pointer (RFC 6901) into the body, or the name of "
                        "a parameter after a slash.",
                    },
                    "detail": {"type": "string", "description": "What is accepted there."},
                },
            },
        },
    },
}


def _response(status: int) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": HTTPStatus(status).phrase,
        "content": {MEDIA_TYPE: {"schema": _REFERENCE}},
    }
    if status in _WITH_RETRY:
        response["headers"] = {
            "Retry-After": {
                "description": "Seconds to wait before asking again.",
                "schema": {"type": "integer", "minimum": 1},
            }
        }
    return response


PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: _response(status) for status in _STATUSES
}
"""For ``FastAPI(responses=…)``: no answer of a service is one that its document does not know."""


def add_problem_schema(document: dict[str, Any]) -> dict[str, Any]:
    """Add the schema that the problem responses refer to, and drop the framework's own."""
    schemas: dict[str, Any] = document.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = _SCHEMA
    for name in ("HTTPValidationError", "ValidationError"):
        if name in schemas and not _is_used(document, name):
            del schemas[name]
    return document


def _is_used(document: dict[str, Any], name: str) -> bool:
    reference = f"#/components/schemas/{name}"
    pending: list[Any] = [
        document.get("paths", {}),
        {k: v for k, v in document["components"]["schemas"].items() if k != "HTTPValidationError"},
    ]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            if one.get("$ref") == reference:
                return True
            pending.extend(one.values())
        elif isinstance(one, list):
            pending.extend(one)
    return False
