"""What FastAPI's own OpenAPI document lacks, and what it has too much."""

from __future__ import annotations

from typing import Any

from mainstay.http.openapi import PROBLEM_RESPONSES, PROBLEM_SCHEMA

__all__ = ["PROBLEM_RESPONSES", "add_problem_schema"]


def add_problem_schema(document: dict[str, Any]) -> dict[str, Any]:
    """Add the schema that the problem responses refer to, and drop the framework's own."""
    schemas: dict[str, Any] = document.setdefault("components", {}).setdefault("schemas", {})
    schemas["Problem"] = PROBLEM_SCHEMA
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
