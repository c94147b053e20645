"""A request that is sent again under its Idempotency-Key is done once."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from typing import Any

import httpx
import pytest

from mainstay.testing.wait import async_eventually, eventually
from tests.services.data.platform import API
from tests.services.platform import Platform

KEYS, CLIENTS = 20, 10
PATHS = [f"{API}/data/process", f"{API}/data/process-async"]


def records_of(client: httpx.Client, marker: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        params = {"limit": 500} | ({"cursor": cursor} if cursor else {})
        page = client.get(f"{API}/database/records", params=params).json()
        found += [row for row in page["items"] if row["description"] == marker]
        cursor = page["next_cursor"]
    return found


@pytest.mark.parametrize("path", PATHS)
async def test_a_key_of_ten_clients_has_one_effect(
    platform: Platform, client: httpx.Client, path: str
) -> None:
    marker = f"marker {secrets.token_hex(8)}"
    answers: dict[int, list[httpx.Response]] = {key: [] for key in range(KEYS)}
    at_a_time = asyncio.Semaphore(50)
    async with httpx.AsyncClient(
        base_url=platform.url, headers=platform.headers, timeout=600
    ) as many:

        async def send(key: int) -> None:
            body = {"payload": key, "description": marker}
            headers = {"Idempotency-Key": f"{marker[7:]}-{key}"}

            async def answered() -> httpx.Response | None:
                answer = await many.post(path, json=body, headers=headers)
                if answer.status_code not in (409, 503):
                    return answer
                # Another client's is being processed, or the machine is busy: asked again.
                assert int(answer.headers["retry-after"]) >= 1
                return None

            async with at_a_time:
                answer = await async_eventually(answered, timeout_seconds=600, every_seconds=0.1)
                assert answer is not None
                answers[key].append(answer)

        await asyncio.gather(*(send(key) for _ in range(CLIENTS) for key in range(KEYS)))

    for found in answers.values():
        assert all(each.is_success for each in found)
        assert len({each.content for each in found}) == 1
        replayed = [each.headers.get("idempotency-replayed") == "true" for each in found]
        assert replayed.count(False) <= 1  # its own answer may be the one that a client lost
    rows = records_of(client, marker)
    assert Counter(row["payload"] for row in rows) == Counter(range(KEYS))
    if path.endswith("async"):
        eventually(
            lambda: all(row["task_status"] == "Success" for row in records_of(client, marker)),
            every_seconds=0.5,
        )


@pytest.mark.parametrize("path", PATHS)
def test_a_replay_is_the_first_answer_byte_for_byte(client: httpx.Client, path: str) -> None:
    headers = {"Idempotency-Key": f'"{secrets.token_hex(8)}"'}
    body = {"payload": "once", "description": "uppercase"}
    first = client.post(path, json=body, headers=headers)
    again = client.post(path, json=body, headers=headers)
    assert (again.status_code, again.content) == (first.status_code, first.content)
    for name in ("content-type", "location"):
        assert again.headers[name] == first.headers[name]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert again.headers["x-correlation-id"] != first.headers["x-correlation-id"]

    other = client.post(path, json=body | {"payload": "twice"}, headers=headers)
    assert other.status_code == 422
    assert other.headers["content-type"] == "application/problem+json"


def test_the_longest_answer_is_kept_too(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": secrets.token_hex(8)}
    body = {"payload": "ΐ" * 170_000, "description": "uppercase"}
    first = client.post(f"{API}/data/process", json=body, headers=headers)
    again = client.post(f"{API}/data/process", json=body, headers=headers)
    assert first.status_code == 200, first.text
    assert len(first.content) > 1_048_576
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ключ"])
def test_a_key_of_another_form_is_refused(client: httpx.Client, path: str, key: str) -> None:
    headers = {b"Idempotency-Key": key.encode()}
    answer = client.post(path, json={"payload": 1}, headers=httpx.Headers(headers))
    assert answer.status_code == 400
    assert "Idempotency-Key" in answer.json()["detail"]
