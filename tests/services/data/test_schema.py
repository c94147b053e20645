"""Schemathesis finds no 5xx and no answer that the OpenAPI document does not describe."""

from __future__ import annotations

from tests.services.commands import check_document
from tests.services.data.platform import API
from tests.services.platform import Platform


def test_every_answer_is_as_the_document_says(embedded_platform: Platform) -> None:
    check_document(embedded_platform, f"{API}/openapi.json")
