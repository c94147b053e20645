"""The importer: records at once, records as tasks, and a batch that tells how far it is."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.services.books.platform import API
from tests.services.books.test_rows import is_problem

INGEST, PROGRESS = f"{API}/importer/ingest", f"{API}/importer/progress"
Follow = Callable[[str], dict[str, Any]]

RECORDS = [
    {"id": " a-1 ", "payload": {"title": "  War and Peace ", "tags": [" novel ", 1, None]}},
    {"id": 2, "payload": " text "},
]
TRIMMED = [
    {"id": "a-1", "payload": {"title": "War and Peace", "tags": ["novel", 1, None]}},
    {"id": 2, "payload": "text"},
]


def test_records_are_trimmed_at_once(client: httpx.Client) -> None:
    answer = client.post(INGEST, json={"source": "shelf", "records": RECORDS})
    assert answer.status_code == 200
    assert answer.json() == {"status": "processed", "source": "shelf", "records": TRIMMED}


def test_records_that_are_enqueued_are_a_task_each(client: httpx.Client, follow: Follow) -> None:
    body = {"source": "shelf", "enqueue": True, "records": RECORDS}
    answer = client.post(INGEST, json=body)
    assert answer.status_code == 202
    told = answer.json()
    assert (told["status"], told["source"], told["queue"]) == ("queued", "shelf", "importer")
    assert [task["id"] for task in told["tasks"]] == [" a-1 ", 2]
    for task, trimmed in zip(told["tasks"], TRIMMED, strict=True):
        assert task.keys() == {"id", "task_id"}
        status = follow(task["task_id"])
        assert (status["state"], status["result"]) == ("SUCCESS", trimmed)
        assert status["meta"] == {"current": 1, "total": 1, "progress": 100.0}


def test_a_batch_tells_how_far_it_is(client: httpx.Client, follow: Follow) -> None:
    records = [{"id": number, "payload": f" {number} "} for number in range(2_000)]
    answer = client.post(PROGRESS, json={"records": records})
    assert answer.status_code == 202
    told = answer.json()
    assert (told["status"], told["queue"]) == ("queued", "importer")
    assert answer.headers["location"] == told["status_url"]
    assert client.get(told["status_url"]).json()["task_id"] == told["task_id"]
    status = follow(told["task_id"])
    assert status["state"] == "SUCCESS"
    assert status["meta"] == {"current": 2_000, "total": 2_000, "progress": 100.0}
    assert status["result"]["records"][7] == {"id": 7, "payload": "7"}


def test_an_unknown_task_is_404(client: httpx.Client) -> None:
    for unknown in ("nope", "00000000-0000-4000-8000-000000000000", "x" * 5_000):
        is_problem(client.get(f"{API}/importer/status/{unknown}"), 404)


@pytest.mark.parametrize("path", [INGEST, PROGRESS])
def test_the_same_key_has_no_second_effect(client: httpx.Client, path: str) -> None:
    body: dict[str, Any] = {"records": RECORDS}
    if path == INGEST:
        body |= {"source": "shelf", "enqueue": True}
    headers = {"Idempotency-Key": secrets.token_hex(8)}
    first = client.post(path, json=body, headers=headers)
    second = client.post(path, json=body, headers=headers)
    assert first.status_code == second.status_code == 202
    assert first.content == second.content
    assert second.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"records": []}, "/source"),
        ({"source": "s"}, "/records"),
        ({"source": "s", "records": [{"id": 1}]}, "/records/0/payload"),
        ({"source": "s", "records": [{"payload": 1}]}, "/records/0/id"),
        ({"source": "s", "records": [], "enqueue": "later"}, "/enqueue"),
        ({"source": "s", "records": [{"id": 1, "payload": 2**53}]}, "/records/0/payload"),
    ],
)
def test_records_that_do_not_fit_are_refused(
    client: httpx.Client, body: object, pointer: str
) -> None:
    problem = is_problem(client.post(INGEST, json=body), 422)
    assert pointer in {error["pointer"] for error in problem["errors"]}
