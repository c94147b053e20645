"""Whatever is wrong with a request, the answer is a problem document that says what and where."""

from __future__ import annotations

import json
import secrets
from typing import Any

import httpx
import pytest

from mainstay.http.pages import encode_cursor
from tests.services.data.platform import API

POSTS = [f"{API}/data/process", f"{API}/data/process-async"]
JSON_TYPE = {"Content-Type": "application/json"}

BODIES: dict[str, tuple[bytes, dict[str, str], int, str | None]] = {
    "not JSON": (b"{", JSON_TYPE, 400, None),
    "empty": (b"", JSON_TYPE, 422, ""),
    "not UTF-8": (b'{"payload": "\xff"}', JSON_TYPE, 400, None),
    "a list": (b"[]", JSON_TYPE, 422, ""),
    "no payload": (b"{}", JSON_TYPE, 422, "/payload"),
    "a field too many": (b'{"payload": 1, "colour": "red"}', JSON_TYPE, 422, "/colour"),
    "a description of another type": (
        b'{"payload": 1, "description": 5}',
        JSON_TYPE,
        422,
        "/description",
    ),
    "a long description": (
        json.dumps({"payload": 1, "description": "x" * 10_001}).encode(),
        JSON_TYPE,
        422,
        "/description",
    ),
    "another type": (b"payload=1", {"Content-Type": "text/plain"}, 415, None),
    "a form": (b"payload=1", {"Content-Type": "application/x-www-form-urlencoded"}, 415, None),
    "too large": (b'{"payload": "' + b"x" * 1_100_000 + b'"}', JSON_TYPE, 413, None),
    "too deep": (b'{"payload": ' + b"[" * 100 + b"]" * 100 + b"}", JSON_TYPE, 400, None),
    "very deep": (b'{"payload": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", JSON_TYPE, 400, None),
    "not a number": (b'{"payload": NaN}', JSON_TYPE, 400, None),
    "infinity": (b'{"payload": Infinity}', JSON_TYPE, 400, None),
    "half a surrogate": (b'{"payload": "\\ud800"}', JSON_TYPE, 400, None),
    "a NUL": (b'{"payload": "\\u0000"}', JSON_TYPE, 422, "/payload"),
    "an integer beyond 64 bits": (
        b'{"payload": 123456789012345678901234567890}',
        JSON_TYPE,
        422,
        "/payload",
    ),
    "a huge integer": (b'{"payload": ' + b"9" * 5_000 + b"}", JSON_TYPE, 400, None),
}


def is_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "instance", "correlation_id"} <= problem.keys()
    assert problem["status"] == status
    assert problem["correlation_id"] == answer.headers["x-correlation-id"]
    assert "Traceback" not in answer.text
    assert "site-packages" not in answer.text
    return problem


def test_a_task_that_cannot_be_sent_leaves_no_record(client: httpx.Client) -> None:
    marker = secrets.token_hex(8)
    # Within the limit as it comes, and beyond it as JSON that writes each number out.
    body = b'{"payload": [%s], "description": "%s"}' % (
        b",".join([b"1e15"] * 150_000),
        marker.encode(),
    )
    is_problem(client.post(f"{API}/data/process-async", content=body, headers=JSON_TYPE), 413)
    rows = client.get(f"{API}/database/records", params={"limit": 5}).json()["items"]
    assert marker not in {row["description"] for row in rows}


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("kind", BODIES)
def test_a_body_that_does_not_fit_is_refused(client: httpx.Client, path: str, kind: str) -> None:
    body, headers, status, pointer = BODIES[kind]
    answer = client.post(path, content=body, headers=headers)
    problem = is_problem(answer, status)
    if pointer is not None:
        assert pointer in {error["pointer"] for error in problem["errors"]}, problem


def cursor(created_at: str) -> str:
    """Write a cursor as the service does, with a time that no row has."""
    return encode_cursor([created_at, "00000000-0000-4000-8000-000000000000"])


@pytest.mark.parametrize("path", [f"{API}/database/records", f"{API}/database/logs"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "501"),
        ("limit", "many"),
        ("limit", "-1"),
        ("offset", "-1"),
        ("offset", "10001"),
        ("offset", "1e3"),
        ("cursor", "x"),
        ("cursor", "bm90IGEgY3Vyc29y"),
        ("cursor", "x" * 5_000),
        ("cursor", "WzEsMl0"),
        ("cursor", cursor("2026-12-01T00:00:00")),
        ("cursor", cursor("0001-01-01T00:00:00+14:00")),
        ("count", "perhaps"),
    ],
)
def test_a_page_that_cannot_be_is_refused(
    client: httpx.Client, path: str, name: str, value: str
) -> None:
    problem = is_problem(client.get(path, params={name: value}), 422)
    assert any(name in error["pointer"] for error in problem["errors"]), problem


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"{API}/nothing", 404),
        ("GET", f"{API}/data/process-async/..%2f..%2fetc", 404),
        ("GET", f"{API}/data/process-async/%00", 400),
        ("GET", f"{API}/database/records/%F0%9F%98%80", 404),
        ("GET", f"{API}/database/records/{'x' * 3000}", 404),
        ("GET", f"{API}/database/records/'%20or%201=1", 404),
        ("DELETE", f"{API}/database/records/nothing", 404),
        ("PUT", f"{API}/data/process", 405),
        ("POST", f"{API}/metrics", 405),
        ("DELETE", "/", 405),
        ("PATCH", f"{API}/database/logs", 405),
    ],
)
def test_what_is_not_there_is_a_problem_document(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    is_problem(answer, status)
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize("value", ["a b", "x" * 129, "ключ", "a;b", ""])
def test_a_correlation_id_of_another_form_is_replaced(client: httpx.Client, value: str) -> None:
    answer = client.get("/", headers=httpx.Headers({b"X-Correlation-ID": value.encode()}))
    assert answer.status_code == 200
    assert answer.headers["x-correlation-id"] not in (value, "")
