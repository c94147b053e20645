"""The OpenAPI document tells the truth: schemathesis finds no 5xx and no undocumented answer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx

from tests.services.books.platform import API, Platform

EXAMPLES = 30


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


def test_every_answer_is_as_the_document_says(embedded_platform: Platform, tmp_path: Path) -> None:
    found = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            "run",
            f"{embedded_platform.url}{API}/openapi.json",
            "--checks=all",
            # An id that is taken and a group that is not there are refused for good reason, and so
            # is one Idempotency-Key with two bodies.
            "--exclude-checks=positive_data_acceptance",
            f"--max-examples={EXAMPLES}",
            "--seed=20261120",
            "--no-color",
        ],
        cwd=tmp_path,
        env=embedded_platform.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert found.returncode == 0, found.stdout[-20_000:] + found.stderr[-2_000:]
