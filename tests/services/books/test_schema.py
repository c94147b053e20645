"""Schemathesis finds no 5xx and no answer that the OpenAPI document does not describe."""

from __future__ import annotations

import httpx

from tests.services.books.platform import API
from tests.services.commands import check_document
from tests.services.platform import Platform


def test_the_document_has_every_route(client: httpx.Client) -> None:
    document = client.get(f"{API}/openapi.json").json()
    assert set(document["paths"]) == {
        f"{API}/groups/",
        f"{API}/groups/{{id}}",
        f"{API}/types/",
        f"{API}/types/{{id}}",
        f"{API}/health",
        f"{API}/db-status",
        f"{API}/importer/ingest",
        f"{API}/importer/progress",
        f"{API}/importer/status/{{task_id}}",
    }
    assert document["paths"][f"{API}/importer/ingest"]["post"]["responses"].keys() >= {"200", "202"}


def test_every_answer_is_as_the_document_says(embedded_platform: Platform) -> None:
    check_document(embedded_platform, f"{API}/openapi.json")
