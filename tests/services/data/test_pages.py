"""What every service answers besides its business: health, metrics, documentation."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.services.data.platform import API


def test_the_root_tells_what_this_is(client: httpx.Client) -> None:
    told = client.get("/").json()
    assert told["name"] == "data"
    assert told["version"]
    for link in told["links"].values():
        assert client.get(link).status_code == 200


def test_health_names_everything_that_is_held_open(client: httpx.Client) -> None:
    answer = client.get("/health")
    assert answer.status_code == 200
    told = answer.json()
    assert (told["status"], told["service"]) == ("healthy", "data")
    assert {"database", "calls", "broker"} <= told["checks"].keys()
    for check in told["checks"].values():
        assert check["status"] == "healthy"
        assert check["latency_ms"] >= 0


@pytest.mark.parametrize("path", ["/ready", "/readyz"])
def test_a_service_that_may_get_traffic_says_so(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 200


def test_a_process_that_gets_on_says_so(client: httpx.Client) -> None:
    assert client.get("/healthz").json()["status"] == "healthy"


@pytest.mark.parametrize("page", ["docs", "redoc"])
def test_the_documentation_needs_no_other_host(client: httpx.Client, page: str) -> None:
    answer = client.get(f"{API}/{page}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    files = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assert files
    for file in files:
        assert not file.startswith(("http:", "https:", "//")), file
        assert client.get(str(answer.url.join(file).path)).status_code == 200


def test_the_openapi_document_has_every_route(client: httpx.Client) -> None:
    document = client.get(f"{API}/openapi.json").json()
    assert set(document["paths"]) >= {
        "/",
        f"{API}/data/process",
        f"{API}/data/process-async",
        f"{API}/data/process-async/{{task_id}}",
        f"{API}/database/records",
        f"{API}/database/records/{{task_id}}",
        f"{API}/database/logs",
        f"{API}/metrics",
    }
