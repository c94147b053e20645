"""Groups and types over the API: added, shown, changed, deleted, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.services.books.platform import API

NewId = Callable[[], int]
GROUPS, TYPES = f"{API}/groups/", f"{API}/types/"
MOST = 2**53 - 1


def is_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert "Traceback" not in answer.text
    return problem


@pytest.fixture
def group(client: httpx.Client, new_id: NewId) -> int:
    id = new_id()
    answer = client.post(GROUPS, json={"id": id, "name": "Texts", "comment": "to read"})
    assert answer.status_code == 201, answer.text
    return id


@pytest.fixture
def type_(client: httpx.Client, new_id: NewId, group: int) -> int:
    id = new_id()
    body = {"id": id, "file_name": "book.txt", "comments": "", "group_id": group}
    assert client.post(TYPES, json=body).status_code == 201
    return id


def test_a_group_is_added_and_shown(client: httpx.Client, new_id: NewId) -> None:
    row = {"id": new_id(), "name": "Тексты", "comment": "to read"}
    answer = client.post(GROUPS, json=row)
    assert answer.status_code == 201
    assert answer.json() == row
    assert client.get(f"{GROUPS}{row['id']}").json() == row
    assert row in client.get(GROUPS).json()["items"]


def test_a_type_is_added_to_a_group_and_shown(
    client: httpx.Client, new_id: NewId, group: int
) -> None:
    row = {"id": new_id(), "file_name": "a.txt", "comments": "plain", "group_id": group}
    answer = client.post(TYPES, json=row)
    assert answer.status_code == 201
    assert answer.json() == row
    assert client.get(f"{TYPES}{row['id']}").json() == row


def test_only_the_id_of_a_group_is_needed(client: httpx.Client, new_id: NewId) -> None:
    id = new_id()
    answer = client.post(GROUPS, json={"id": id})
    assert (answer.status_code, answer.json()) == (201, {"id": id, "name": None, "comment": None})


def test_an_id_that_is_taken_is_refused(client: httpx.Client, group: int, type_: int) -> None:
    is_problem(client.post(GROUPS, json={"id": group}), 400)
    is_problem(client.post(TYPES, json={"id": type_, "group_id": group}), 400)
    assert client.get(f"{GROUPS}{group}").json()["name"] == "Texts"


def test_a_type_of_a_group_that_is_not_there_is_refused(
    client: httpx.Client, new_id: NewId, type_: int
) -> None:
    is_problem(client.post(TYPES, json={"id": new_id(), "group_id": new_id()}), 400)
    is_problem(client.put(f"{TYPES}{type_}", json={"group_id": new_id()}), 400)
    is_problem(client.put(f"{TYPES}{type_}", json={"group_id": None}), 400)


def test_a_change_leaves_alone_what_it_does_not_name(client: httpx.Client, group: int) -> None:
    answer = client.put(f"{GROUPS}{group}", json={"name": "Books"})
    assert answer.status_code == 200
    assert answer.json() == {"id": group, "name": "Books", "comment": "to read"}
    emptied = client.put(f"{GROUPS}{group}", json={"comment": None}).json()
    assert emptied == {"id": group, "name": "Books", "comment": None}


def test_a_type_is_moved_to_another_group(
    client: httpx.Client, new_id: NewId, type_: int, group: int
) -> None:
    other = new_id()
    client.post(GROUPS, json={"id": other})
    assert client.put(f"{TYPES}{type_}", json={"group_id": other}).json()["group_id"] == other
    assert client.delete(f"{GROUPS}{group}").status_code == 204


def test_a_group_that_is_in_use_stays(client: httpx.Client, group: int, type_: int) -> None:
    is_problem(client.delete(f"{GROUPS}{group}"), 409)
    assert client.get(f"{GROUPS}{group}").status_code == 200
    assert client.delete(f"{TYPES}{type_}").status_code == 204
    assert client.delete(f"{GROUPS}{group}").status_code == 204
    is_problem(client.get(f"{GROUPS}{group}"), 404)


@pytest.mark.parametrize("rows", [GROUPS, TYPES])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_row_that_is_not_there_is_404(client: httpx.Client, rows: str, method: str) -> None:
    body: dict[str, Any] | None = {} if method == "PUT" else None
    for id in (MOST, "one"):
        is_problem(client.request(method, f"{rows}{id}", json=body), 404)


def test_a_change_of_what_has_changed_meanwhile_is_refused(
    client: httpx.Client, group: int
) -> None:
    path = f"{GROUPS}{group}"
    tag = {"If-Match": client.get(path).headers["etag"]}
    changed = client.put(path, json={"name": "first"}, headers=tag)
    assert changed.status_code == 200
    is_problem(client.put(path, json={"name": "second"}, headers=tag), 412)
    tag = {"If-Match": changed.headers["etag"]}
    assert client.put(path, json={"name": "third"}, headers=tag).status_code == 200


def test_rows_come_in_the_order_of_their_ids_all_or_a_part(
    client: httpx.Client, new_id: NewId
) -> None:
    for _ in range(3):
        client.post(GROUPS, json={"id": new_id()})
    everything = client.get(GROUPS).json()
    ids = [row["id"] for row in everything["items"]]
    assert ids == sorted(ids)
    assert everything["total"] == len(ids)
    part = client.get(GROUPS, params={"limit": 2, "offset": 1}).json()
    assert [row["id"] for row in part["items"]] == ids[1:3]
    assert part["total"] == everything["total"]
    rest = client.get(GROUPS, params={"offset": 1}).json()
    assert [row["id"] for row in rest["items"]] == ids[1:]


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 501}, {"limit": "x"}, {"offset": -1}])
def test_a_part_that_cannot_be_is_refused(client: httpx.Client, query: dict[str, Any]) -> None:
    problem = is_problem(client.get(GROUPS, params=query), 422)
    assert problem["errors"][0]["pointer"] == f"/{next(iter(query))}"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/id"),
        ({"id": None}, "/id"),
        ({"id": 0}, "/id"),
        ({"id": MOST + 1}, "/id"),
        ({"id": "one"}, "/id"),
        ({"id": 1, "name": "x" * 256}, "/name"),
        ({"id": 1, "name": 5}, "/name"),
        ({"id": 1, "comment": "x" * 2001}, "/comment"),
        ({"id": 1, "colour": "red"}, "/colour"),
        ([], ""),
    ],
)
def test_a_group_that_does_not_fit_is_refused(
    client: httpx.Client, body: object, pointer: str
) -> None:
    problem = is_problem(client.post(GROUPS, json=body), 422)
    assert pointer in {error["pointer"] for error in problem["errors"]}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"id": 1}, "/group_id"),
        ({"group_id": 1}, "/id"),
        ({"id": 1, "group_id": "one"}, "/group_id"),
        ({"id": 1, "group_id": 1, "file_name": "x" * 256}, "/file_name"),
        ({"id": 1, "group_id": 1, "comments": "x" * 2001}, "/comments"),
    ],
)
def test_a_type_that_does_not_fit_is_refused(
    client: httpx.Client, body: object, pointer: str
) -> None:
    problem = is_problem(client.post(TYPES, json=body), 422)
    assert pointer in {error["pointer"] for error in problem["errors"]}


def test_the_longest_texts_fit_whatever_their_letters(client: httpx.Client, new_id: NewId) -> None:
    row = {"id": new_id(), "name": "ж" * 255, "comment": "📚" * 2000}
    assert client.post(GROUPS, json=row).json() == row
