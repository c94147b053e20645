"""What every OpenAPI document says: which problems an operation may answer with."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from mainstay.http.problems import MEDIA_TYPE

__all__ = ["PROBLEM_RESPONSES", "PROBLEM_SCHEMA"]

_REFERENCE = {"$ref": "#/components/schemas/Problem"}
_STATUSES = (400, 401, 403, 404, 405, 408, 409, 412, 413, 415, 422, 429, 431, 500, 502, 503, 504)
_WITH_RETRY = frozenset({409, 429, 503})

PROBLEM_SCHEMA: dict[str, Any] = {
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
"""What the problem responses refer to: ``components/schemas/Problem``."""


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
"""No answer of a service is one that its document does not know."""
