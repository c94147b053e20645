"""Data goes in over HTTP, through a call or a task, and comes out done."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
import pytest

from mainstay.testing.wait import eventually

API = "/api/v1"
PROCESS, ASYNC = f"{API}/data/process", f"{API}/data/process-async"

OPERATIONS: list[tuple[Any, str | None, Any]] = [
    ("hello", "uppercase", "HELLO"),
    ("hello", "reverse", "olleh"),
    ("hello", None, "processed: hello"),
    ("", "whatever", "processed: "),
    (3, "square", 9),
    (2.5, "double", 5.0),
    (7, None, 7),
    ([3, 1, 2], "sort", [1, 2, 3]),
    ([1, "a"], "reverse", ["a", 1]),
    ([1, 2], None, {"count": 2, "items": [1, 2]}),
    ({"a": 1}, "sort", {"processed": True, "keys_count": 1, "data": {"a": 1}}),
    (True, "square", True),
    (None, None, None),
    ("straße and 😀", "uppercase", "STRASSE AND 😀"),
]


@pytest.mark.parametrize(("payload", "description", "output"), OPERATIONS)
def test_a_payload_is_processed_by_a_call(
    client: httpx.Client, payload: Any, description: str | None, output: Any
) -> None:
    answer = client.post(PROCESS, json={"payload": payload, "description": description})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["task_id"], body["task_status"]) == ("-", "Success")
    outcome = body["outcome"]
    assert outcome["status"] == "success"
    assert outcome["input"] == payload
    assert outcome["output"] == output
    assert outcome["processed_at"]
    assert outcome["metadata"]["input_length"] >= 0
    assert outcome["metadata"]["processing_time_ms"] >= 0

    record = client.get(answer.headers["location"]).json()
    assert record["id"] == answer.headers["x-record-id"]
    assert (record["payload"], record["outcome"]) == (payload, outcome)
    assert (record["task_type"], record["task_status"]) == ("sync", "Success")


IMPOSSIBLE = [
    ([1, "a"], "sort", "one order"),
    (2**62, "double", "64 bits"),
    (1e200, "square", "JSON number"),
]


@pytest.mark.parametrize(("payload", "description", "why"), IMPOSSIBLE)
def test_what_an_operation_cannot_do_is_a_failure_that_says_why(
    client: httpx.Client, payload: Any, description: str, why: str
) -> None:
    for path in (PROCESS, ASYNC):
        answer = client.post(path, json={"payload": payload, "description": description})
        if path == ASYNC:
            assert answer.status_code == 202
            answer = finished(client, answer.json()["task_id"])
        assert answer.status_code == 200
        assert answer.json()["task_status"] == "Failure"
        outcome = answer.json()["outcome"]
        assert outcome["status"] == "error"
        assert why in outcome["error"]["detail"]


def test_a_payload_is_processed_by_a_task(client: httpx.Client) -> None:
    answer = client.post(ASYNC, json={"payload": [2, 1], "description": "sort"})
    assert answer.status_code == 202
    task_id = answer.json()["task_id"]
    assert answer.json() == {"task_id": task_id, "task_status": "Processing", "outcome": None}
    assert answer.headers["location"] == f"{ASYNC}/{UUID(task_id)}"

    done = finished(client, task_id).json()
    assert done["task_status"] == "Success"
    assert done["outcome"]["output"] == [1, 2]

    record = client.get(f"{API}/database/records/{task_id}").json()
    assert record["task_id"] == task_id
    assert record["task_status"] == "Success"
    assert record["outcome"] == done["outcome"]
    assert client.get(f"{API}/database/records/{record['id']}").json() == record


def finished(client: httpx.Client, task_id: str) -> httpx.Response:
    def answered() -> httpx.Response:
        answer = client.get(f"{ASYNC}/{task_id}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["task_status"] != "Processing"
        return answer

    return eventually(answered)


@pytest.mark.parametrize("id", ["00000000-0000-4000-8000-000000000000", "never-issued"])
def test_an_id_that_was_never_issued_is_not_found(client: httpx.Client, id: str) -> None:
    for path in (f"{ASYNC}/{id}", f"{API}/database/records/{id}"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert id in answer.json()["detail"]
    assert client.delete(f"{API}/database/records/{id}").status_code == 404


def test_a_deleted_record_is_gone(client: httpx.Client) -> None:
    location = client.post(PROCESS, json={"payload": 1}).headers["location"]
    deleted = client.delete(location)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert client.get(location).status_code == 404
    assert client.delete(location).status_code == 404


def test_the_log_tells_the_start_and_the_end_of_every_call(client: httpx.Client) -> None:
    task_id = client.post(ASYNC, json={"payload": "x", "description": "reverse"}).json()["task_id"]
    finished(client, task_id)
    answer = client.post(
        PROCESS,
        json={"payload": "x", "description": "reverse"},
        headers={"X-Correlation-ID": "log-test"},
    )
    assert answer.headers["x-correlation-id"] == "log-test"
    record_id = answer.headers["x-record-id"]

    for id, kind in ((task_id, "async"), (record_id, "sync")):
        rows = logs_of(client, task_id=id)
        assert [row["status"] for row in rows] == ["started", "done"]
        assert {row["task_type"] for row in rows} == {kind}
        assert {(row["queue_name"], row["service_name"]) for row in rows} == {
            ("data_queue", "data")
        }
        assert {row["description"] for row in rows} == {"reverse"}
    assert logs_of(client, correlation_id="log-test") == logs_of(client, task_id=record_id)


def logs_of(client: httpx.Client, **wanted: str) -> list[dict[str, Any]]:
    """Return the rows of the log that have all of *wanted*, oldest first."""
    rows: list[dict[str, Any]] = client.get(f"{API}/database/logs", params=wanted).json()["items"]
    return rows[::-1]


def test_pages_of_records_hang_together(client: httpx.Client) -> None:
    made = [client.post(PROCESS, json={"payload": n}).headers["x-record-id"] for n in range(7)]
    seen: list[str] = []
    cursor = None
    while len(seen) < 7:
        params = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = client.get(f"{API}/database/records", params=params).json()
        seen += [row["id"] for row in page["items"]]
        cursor = page["next_cursor"]
    assert seen[:7] == made[::-1]
    assert "total" not in page
    counted = client.get(f"{API}/database/records", params={"limit": 1, "count": "true"}).json()
    assert counted["total"] >= 7
    assert len(counted["items"]) == 1


def test_the_queue_and_the_calls_are_told_as_json(client: httpx.Client) -> None:
    client.post(PROCESS, json={"payload": 1})
    told = client.get(f"{API}/metrics").json()
    keys = {"messages", "messages_ready", "messages_unacknowledged"}
    assert set(told["data_queue"]) == set(told["data_queue_dlq"]) == keys
    latency = told["rpc"]["latency"]
    assert latency["count"] >= 1
    assert 0 < latency["p50"] <= latency["p95"]
    assert latency["avg"] > 0
    assert told["rpc"]["timeouts_total"] >= 0
