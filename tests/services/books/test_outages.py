"""What people are told while workers die, and what the database holds open after bad requests."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import psycopg
import pytest

from mainstay.processes import facts
from mainstay.testing.wait import eventually
from tests.services.books.platform import API
from tests.services.platform import Platform
from tests.waiting import PATIENCE_SECONDS

FINAL = ("SUCCESS", "FAILURE")
AT_ONCE, BATCH = 20, 3_000
KILLS = 8


@pytest.fixture
def client(real_platform: Platform) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=real_platform.url, headers=real_platform.headers, timeout=PATIENCE_SECONDS
    ) as client:
        yield client


def kill_one(platform: Platform, *, is_main: bool) -> None:
    """Kill the main process of the worker, or the first of its children."""

    def family() -> list[int]:
        pids = platform.pids("books.worker")
        mains = [pid for pid in pids if facts.parent(pid) not in pids]
        return [*mains, *sorted(set(pids) - set(mains))]

    eventually(lambda: len(family()) > 1)
    with suppress(ProcessLookupError):
        os.kill(family()[0 if is_main else 1], signal.SIGKILL)


def test_everything_that_was_accepted_is_done_or_dead_and_never_goes_back(
    real_platform: Platform, client: httpx.Client
) -> None:
    seen: dict[str, float] = {}

    def watch(id: str) -> bool:
        """Has the task ended? Fails when it has gone back since it was looked at last."""
        status = client.get(f"{API}/importer/status/{id}").json()
        current = status["meta"]["current"]
        if current < seen.get(id, 0):
            pytest.fail(f"{id} went back from {seen[id]} to {status}")
        seen[id] = current
        return status["state"] in FINAL

    batch = [{"id": number, "payload": " x " * 20} for number in range(BATCH)]
    records = [{"id": number, "payload": " x "} for number in range(AT_ONCE)]
    accepted: set[str] = set()
    pending: set[str] = set()

    def are_over() -> bool:
        pending.difference_update([id for id in sorted(pending) if watch(id)])
        return not pending

    def has_begun(id: str) -> bool:
        return bool(client.get(f"{API}/importer/status/{id}").json()["state"] != "PENDING")

    for number in range(1, KILLS + 1):
        body = {"source": "shelf", "enqueue": True, "records": records}
        queued = client.post(f"{API}/importer/ingest", json=body)
        under_way = client.post(f"{API}/importer/progress", json={"records": batch})
        assert (queued.status_code, under_way.status_code) == (202, 202)
        sent = {task["task_id"] for task in queued.json()["tasks"]}
        sent.add(under_way.json()["task_id"])
        accepted |= sent
        pending |= sent
        eventually(lambda sent=sent: any(has_begun(id) for id in sent))  # type: ignore[misc] # bound now
        kill_one(real_platform, is_main=number % 4 == 0)
        are_over()
    eventually(are_over, timeout_seconds=180, every_seconds=0.2)
    states = [client.get(f"{API}/importer/status/{id}").json()["state"] for id in accepted]
    done, dead = states.count("SUCCESS"), states.count("FAILURE")
    assert done + dead == len(states)
    sys.stdout.write(f"{done} done, {dead} dead, {KILLS} processes killed\n")


def held_open(url: str) -> list[Any]:
    """Return the transactions that are open and do nothing."""
    with psycopg.connect(url) as connection:
        asked = "select state, query from pg_stat_activity where state like 'idle in transaction%'"
        return connection.execute(asked).fetchall()


def test_no_transaction_is_left_open_by_bad_requests(
    real_platform: Platform, client: httpx.Client
) -> None:
    url = real_platform.env["DATABASE_URL"].replace("+psycopg", "")
    group, type_ = 900_001, 900_002
    assert client.post(f"{API}/groups/", json={"id": group}).status_code == 201
    assert client.post(f"{API}/types/", json={"id": type_, "group_id": group}).status_code == 201

    def asked(method: str, path: str, body: object = None) -> Callable[[], int]:
        return lambda: client.request(method, f"{API}{path}", json=body).status_code

    parts = itertools.cycle([0, 20, len(json.dumps({"name": "x" * 200}))])

    def gone() -> int:
        """Ask, and go away before the answer; or in the middle of the question."""
        token = real_platform.token
        body = json.dumps({"name": "x" * 200}).encode()
        head = (
            f"PUT {API}/groups/{group} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        with socket.create_connection(("127.0.0.1", real_platform.ports[0])) as connection:
            connection.sendall(head + body[: next(parts)])
        return 0

    kinds = [
        asked("GET", "/groups/"),
        asked("GET", f"/types/{type_}"),
        asked("GET", "/groups/900009"),
        asked("POST", "/groups/", {"id": group}),
        asked("POST", "/types/", {"id": 900_003, "group_id": 900_009}),
        asked("POST", "/types/", {"id": "x"}),
        asked("PUT", f"/types/{type_}", {"group_id": 900_009}),
        asked("DELETE", f"/groups/{group}"),
        gone,
    ]
    with ThreadPoolExecutor(12) as threads:
        answers = {one.result() for one in [threads.submit(kind) for kind in kinds * 30]}
        assert answers == {0, 200, 400, 404, 409, 422}
        # Those that went away may still be at work: what is left open stays for minutes.
        eventually(lambda: held_open(url) == [])
        # Somebody holds the row: whoever wants to change it is told after a while.
        with psycopg.connect(url) as holder:
            holder.execute("select 1 from tbc.books_files_groups where id = %s for update", [group])
            changing = asked("PUT", f"/groups/{group}", {"name": "late"})
            late = [threads.submit(one) for one in [changing, gone] * 4]
            answers = {one.result() for one in late}
            holder.rollback()
        assert answers == {0, 503}
    eventually(lambda: held_open(url) == [])
    assert client.get(f"{API}/db-status").status_code == 200
