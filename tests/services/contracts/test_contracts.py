"""Every route: contracts are accepted, shown, listed, and done again where they failed."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from mainstay import devfile
from mainstay.testing.wait import eventually
from tests.services.contracts.platform import API, Receiver, ended, steps
from tests.services.platform import Platform

ROOF = {"title": "Roof", "customer": "Ann", "amount": 1200.5, "currency": "EUR"}
DONE = [("validate", "success", 1), ("render", "success", 1), ("notify", "success", 1)]


def accepted(client: httpx.Client, **fields: object) -> str:
    answer = client.post(API, json=ROOF | fields)
    assert answer.status_code == 202, answer.text
    id: str = answer.json()["id"]
    return id


def is_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    return problem


def test_a_contract_is_validated_rendered_and_made_known(
    client: httpx.Client, receiver: Receiver
) -> None:
    customer = f"Ann {uuid4()}"
    answer = client.post(API, json=ROOF | {"customer": customer})
    assert answer.status_code == 202
    told = answer.json()
    assert told.keys() == {"id", "status", "workflow_id"}
    assert told["status"] == "draft"
    assert answer.headers["location"] == f"{API}/{told['id']}"

    contract = ended(client, told["id"])
    assert contract["status"] == "active"
    assert {name: contract[name] for name in ROOF} == ROOF | {"customer": customer}
    assert customer in contract["document"]
    assert "1,200.50 EUR" in contract["document"]
    assert contract == client.get(answer.headers["location"]).json()

    workflow = client.get(f"{API}/{told['id']}/workflow").json()
    assert workflow.keys() == {"workflow_id", "status", "steps"}
    assert (workflow["workflow_id"], workflow["status"]) == (told["workflow_id"], "success")
    assert steps(client, told["id"]) == DONE
    moments = []
    for step in workflow["steps"]:
        assert step.keys() == {
            *("name", "task_id", "status", "attempts", "started_at", "finished_at", "error")
        }
        assert step["error"] is None
        moments += [step["started_at"], step["finished_at"]]
    assert moments == sorted(moments, key=datetime.fromisoformat)
    assert receiver.told[customer] == [workflow["steps"][2]["task_id"]]


def test_one_key_is_one_contract(client: httpx.Client) -> None:
    key = {"Idempotency-Key": str(uuid4())}
    first, again = (client.post(API, json=ROOF, headers=key) for _ in range(2))
    assert first.status_code == again.status_code == 202
    assert again.headers["idempotency-replayed"] == "true"
    assert again.content == first.content
    assert again.headers["location"] == first.headers["location"]
    is_problem(client.post(API, json=ROOF | {"amount": 1}, headers=key), 422)
    listed = client.get(API, params={"limit": 500}).json()["items"]
    found = [each for each in listed if each["workflow_id"] == first.json()["workflow_id"]]
    assert len(found) == 1


@pytest.mark.parametrize(("amount", "currency"), [(12.5, "JPY"), (1, "XXX")])
def test_what_nobody_could_pay_fails_for_good(
    client: httpx.Client, amount: float, currency: str
) -> None:
    id = accepted(client, amount=amount, currency=currency)
    assert ended(client, id)["status"] == "failed"
    told = client.get(f"{API}/{id}/workflow").json()
    assert told["status"] == "failure"
    assert [step["status"] for step in told["steps"]] == ["failure", "skipped", "skipped"]
    assert told["steps"][0]["error"]["type"] == "NotPayable"
    assert currency in told["steps"][0]["error"]["detail"]
    listed = client.get(API, params={"limit": 500}).json()["items"]
    assert [each["status"] for each in listed if each["id"] == id] == ["failed"]

    again = client.post(f"{API}/{id}/retry")
    assert again.status_code == 202
    assert again.json() == {"id": id, "status": "draft", "workflow_id": told["workflow_id"]}
    assert again.headers["location"] == f"{API}/{id}"
    assert ended(client, id)["status"] == "failed"
    assert steps(client, id)[0] == ("validate", "failure", 2)


def test_a_step_that_failed_for_good_is_done_again_and_none_before_it(
    client: httpx.Client, receiver: Receiver
) -> None:
    customer = f"Ben {uuid4()}"
    receiver.answers[customer] = [503, 410]
    id = accepted(client, customer=customer)
    failed = ended(client, id)
    assert failed["status"] == "failed"
    assert steps(client, id) == [*DONE[:2], ("notify", "failure", 2)]
    error = client.get(f"{API}/{id}/workflow").json()["steps"][2]["error"]
    assert error["type"] == "HTTP410"
    assert "410" in error["detail"]

    receiver.answers[customer] = [204]
    again = client.post(f"{API}/{id}/retry")
    assert (again.status_code, again.json()["status"]) == (202, "rendered")
    assert ended(client, id)["status"] == "active"
    assert steps(client, id) == [*DONE[:2], ("notify", "success", 3)]
    assert len(receiver.told[customer]) == 1
    is_problem(client.post(f"{API}/{id}/retry"), 409)


def test_a_contract_without_a_failed_step_is_not_done_again(client: httpx.Client) -> None:
    id = accepted(client)
    assert ended(client, id)["status"] == "active"
    is_problem(client.post(f"{API}/{id}/retry"), 409)
    assert steps(client, id) == DONE


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("GET", "/workflow"), ("POST", "/retry")]
)
def test_a_contract_that_is_not_there_is_404(client: httpx.Client, method: str, path: str) -> None:
    for id in (str(uuid4()), "one"):
        is_problem(client.request(method, f"{API}/{id}{path}"), 404)


MISFITS: list[tuple[dict[str, object], str]] = [
    ({"title": ""}, "/title"),
    ({"customer": "x" * 256}, "/customer"),
    ({"customer": "nul \x00"}, "/customer"),
    ({"amount": 0}, "/amount"),
    ({"amount": 1.2345}, "/amount"),
    ({"amount": 10**15}, "/amount"),
    ({"amount": True}, "/amount"),
    ({"amount": None}, "/amount"),
    ({"currency": "eur"}, "/currency"),
    ({"currency": "EURO"}, "/currency"),
    ({"note": "?"}, "/note"),
]


@pytest.mark.parametrize(("change", "pointer"), MISFITS)
def test_a_body_that_does_not_fit_names_the_field(
    client: httpx.Client, change: dict[str, object], pointer: str
) -> None:
    problem = is_problem(client.post(API, json=ROOF | change), 422)
    assert pointer in {each["pointer"] for each in problem["errors"]}


def test_amounts_come_back_as_they_were_sent(client: httpx.Client) -> None:
    for amount in (0.001, 999_999_999_999.999, 7):
        id = accepted(client, amount=amount, currency="BHD")
        assert client.get(f"{API}/{id}").json()["amount"] == amount


def test_contracts_are_listed_newest_first_in_pages(client: httpx.Client) -> None:
    placed = [accepted(client) for _ in range(3)]
    first = client.get(API, params={"limit": 2, "count": "true"}).json()
    assert [each["id"] for each in first["items"]] == placed[:0:-1]
    assert first["total"] >= 3
    second = client.get(API, params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert second["items"][0]["id"] == placed[0]
    assert "total" not in second
    skipped = client.get(API, params={"limit": 1, "offset": 1}).json()
    assert skipped["items"][0]["id"] == placed[1]
    for asked in ({"limit": 0}, {"limit": 501}, {"cursor": "none of ours"}, {"offset": -1}):
        is_problem(client.get(API, params=asked), 422)


def test_results_are_kept_in_postgresql_with_all_that_celery_knows(
    client: httpx.Client, platform: Platform
) -> None:
    id = accepted(client, amount=0.5, currency="JPY")
    ended(client, id)
    task_id = client.get(f"{API}/{id}/workflow").json()["steps"][0]["task_id"]
    told = {**platform.env, **devfile.find(platform.folder, "contracts")}
    url = told["DATABASE_URL"].replace("+psycopg", "")

    def kept() -> Any:
        """The result comes after the word on the step, which is a part of its transaction."""
        with psycopg.connect(url, row_factory=dict_row) as connection:
            asked = "select * from celery_taskmeta where task_id = %s and status = 'FAILURE'"
            return connection.execute(asked, [task_id]).fetchone()

    row = eventually(kept)
    assert (row["name"], row["queue"], row["retries"]) == ("contracts.validate", "contracts", 0)
    assert (json.loads(row["args"]), json.loads(row["kwargs"])) == ([id], {})
    assert "@" in row["worker"]
    assert "NotPayable" in row["traceback"]
    checked = platform.run("db", "check")
    assert checked.returncode == 0, checked.stdout  # Celery made these tables by itself


def test_each_turn_of_a_step_is_logged_under_the_id_of_the_request(
    client: httpx.Client, platform: Platform
) -> None:
    headers = {"X-Correlation-ID": uuid4().hex}
    id = client.post(API, json=ROOF, headers=headers).json()["id"]
    ended(client, id)

    def lines() -> list[dict[str, Any]]:
        return platform.lines(correlation_id=headers["X-Correlation-ID"], service="contracts")

    # A turn has its last line when its end can be seen already.
    eventually(lambda: sum(line.get("event") == "task" for line in lines()) >= 3)
    turns = [
        (line["event"], line["name"])
        for line in lines()
        if line.get("event") in ("task", "task_started")
    ]
    names = [f"contracts.{name}" for name in ("validate", "render", "notify")]
    assert sorted(turns) == sorted(
        [("task", name) for name in names] + [("task_started", name) for name in names]
    )
    assert all(line["task_id"] and line["attempt"] == 1 for line in lines() if "name" in line)
