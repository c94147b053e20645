"""The OpenAPI document of a Flask application, made of its operations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Literal

from flask import Flask
from pydantic import TypeAdapter
from werkzeug.routing import Rule as Route

from mainstay.http.flask import marks
from mainstay.http.flask.operations import OPERATION, Operation
from mainstay.http.flask.routes import template_of
from mainstay.http.openapi import PROBLEM_RESPONSES, PROBLEM_SCHEMA

__all__ = ["document"]

Mode = Literal["validation", "serialization"]
Key = tuple[Any, ...]

_REFERENCE = "#/components/schemas/{model}"
_BEARER = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
_UNDOCUMENTED = frozenset({"HEAD", "OPTIONS"})


def document(app: Flask, *, title: str, version: str) -> dict[str, Any]:
    """Write down every operation of *app*; plain views are no part of its API."""
    found = list(_operations(app))
    schemas = _Schemas()
    for at, (_, _, operation, in_path) in enumerate(found):
        schemas.ask(at, operation, in_path)
    schemas.make()
    paths: dict[str, dict[str, Any]] = {}
    for at, (rule, view, operation, in_path) in enumerate(found):
        told = _told(view, operation, schemas, at, in_path)
        for method in sorted((rule.methods or set()) - _UNDOCUMENTED):
            name = re.sub(r"\W+", "_", f"{rule.endpoint}_{method}".lower())
            paths.setdefault(template_of(rule), {})[method.lower()] = {**told, "operationId": name}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {**schemas.definitions, "Problem": PROBLEM_SCHEMA},
            "securitySchemes": {"bearer": _BEARER},
        },
    }


def _operations(app: Flask) -> Iterable[tuple[Route, Any, Operation, frozenset[str]]]:
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        operation: Operation | None = getattr(view, OPERATION, None)
        if operation is not None:
            yield rule, view, operation, frozenset(rule.arguments)


class _Schemas:
    """Every schema of the document, asked for first and made all at once: only then is known
    which models share a name.
    """

    def __init__(self) -> None:
        self._asked: list[tuple[Key, Mode, TypeAdapter[Any]]] = []
        self._made: Mapping[tuple[Key, Mode], Any] = {}
        self._groups: dict[str, Any] = {}
        self.definitions: dict[str, Any] = {}

    def ask(self, at: int, operation: Operation, in_path: frozenset[str]) -> None:
        for place, values in enumerate(operation.values(in_path)):
            self._asked.append(((at, "values", place), "validation", values.adapter))
        if operation.body is not None:
            self._asked.append(((at, "body"), "validation", operation.body.adapter))
        for status, adapter in operation.answers.items():
            self._asked.append(((at, "answer", status), "serialization", adapter))

    def make(self) -> None:
        self._made, found = TypeAdapter.json_schemas(self._asked, ref_template=_REFERENCE)
        self.definitions = found.get("$defs", {})
        # Values of one place are parameters of their own, and no schema.
        references = {
            schema["$ref"]
            for (key, _), schema in self._made.items()
            if key[1] == "values" and "$ref" in schema
        }
        for reference in references:
            self._groups[reference] = self.definitions.pop(reference.rpartition("/")[2])

    def of(self, mode: Mode, *key: Any) -> Mapping[str, Any]:
        schema: Mapping[str, Any] = self._made[key, mode]
        return schema

    def fields(self, at: int, place: int) -> Mapping[str, Any]:
        """Return the schema of each value of one place."""
        schema = self.of("validation", at, "values", place)
        if "$ref" in schema:
            schema = self._groups[schema["$ref"]]
        fields: Mapping[str, Any] = schema["properties"]
        return fields


def _told(
    view: object, operation: Operation, schemas: _Schemas, at: int, in_path: frozenset[str]
) -> dict[str, Any]:
    functions = [view, *operation.providers.values()]
    parameters = list(_parameters(operation, schemas, at, in_path))
    parameters += [header for one in functions if (header := marks.header_of(one)) is not None]
    told: dict[str, Any] = {"summary": operation.summary}
    if operation.description:
        told["description"] = operation.description
    if operation.tags:
        told["tags"] = list(operation.tags)
    if operation.is_deprecated:
        told["deprecated"] = True
    if parameters:
        told["parameters"] = parameters
    if operation.body is not None:
        schema = schemas.of("validation", at, "body")
        told["requestBody"] = {
            "required": operation.body.is_required,
            "content": {"application/json": {"schema": schema}},
        }
    told["responses"] = _responses(operation, schemas, at)
    if any(marks.is_for_known(one) for one in functions):
        told["security"] = [{"bearer": []}]
    return told


def _parameters(
    operation: Operation, schemas: _Schemas, at: int, in_path: frozenset[str]
) -> Iterable[Mapping[str, Any]]:
    for place, values in enumerate(operation.values(in_path)):
        for name, schema in schemas.fields(at, place).items():
            shown = {key: value for key, value in schema.items() if key != "description"}
            default = values.defaults.get(name)
            if default is not None:
                shown.setdefault("default", default)
            parameter = {
                "name": values.names[name],
                "in": values.location,
                "required": name not in values.defaults,
                "schema": shown,
            }
            if "description" in schema:
                parameter["description"] = schema["description"]
            yield parameter


def _responses(operation: Operation, schemas: _Schemas, at: int) -> dict[str, Any]:
    told: dict[str, Any] = {str(status): said for status, said in PROBLEM_RESPONSES.items()}
    for status in operation.statuses:
        response: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        if status in operation.answers:
            schema = schemas.of("serialization", at, "answer", status)
            response["content"] = {"application/json": {"schema": schema}}
        told[str(status)] = response
    return dict(sorted(told.items()))
