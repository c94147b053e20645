"""Schemathesis finds no 5xx and no answer that the OpenAPI document does not describe."""

from __future__ import annotations

import httpx

from tests.services.commands import check_document
from tests.services.contracts.platform import API
from tests.services.platform import Platform

DOCUMENT = "/api/v1/openapi.json"


def test_the_document_has_every_route(client: httpx.Client) -> None:
    paths = client.get(DOCUMENT).json()["paths"]
    assert {path: set(methods) for path, methods in paths.items()} == {
        API: {"get", "post"},
        f"{API}/{{id}}": {"get"},
        f"{API}/{{id}}/workflow": {"get"},
        f"{API}/{{id}}/retry": {"post"},
    }
    assert paths[API]["post"]["responses"].keys() >= {"202", "422"}


def test_every_answer_is_as_the_document_says(embedded_platform: Platform) -> None:
    check_document(embedded_platform, DOCUMENT)
