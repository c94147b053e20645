"""A request with an `Idempotency-Key`: one effect, one answer, however often it comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from mainstay import idempotency
from mainstay.testing.wait import eventually
from tests.contract.http.conftest import Running

PATH = "/api/v1/items/keyed"


def post(
    running: Running, key: str, name: str = "a", *, headers: dict[str, str] | None = None
) -> httpx.Response:
    return running.client.post(
        PATH, json={"name": name}, headers={"Idempotency-Key": key, **(headers or {})}
    )


def test_the_first_answer_is_given_again_byte_for_byte(running: Running) -> None:
    first, second = post(running, "k"), post(running, "k")
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    assert first.headers["location"] == second.headers["location"]
    assert first.headers["content-type"] == second.headers["content-type"]
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert len(running.subject.calls) == 1


def test_a_replay_has_a_correlation_id_of_its_own(running: Running) -> None:
    first, second = post(running, "k"), post(running, "k")
    assert first.headers["x-correlation-id"] != second.headers["x-correlation-id"]
    assert len(second.headers.get_list("x-correlation-id")) == 1


def test_a_cookie_is_set_by_the_first_answer_alone(running: Running) -> None:
    first, second = post(running, "k"), post(running, "k")
    assert first.headers["set-cookie"].startswith("basket=7")
    assert "set-cookie" not in second.headers


def test_requests_without_a_key_are_each_their_own(running: Running) -> None:
    works = {running.client.post(PATH, json={"name": "a"}).json()["work"] for _ in range(2)}
    assert len(works) == 2


def test_another_body_under_the_same_key_is_refused(running: Running) -> None:
    post(running, "k")
    answer = post(running, "k", "b")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(running.subject.calls) == 1


def test_blanks_and_the_order_of_names_make_no_other_body(running: Running) -> None:
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    bodies = ('{"name":"a","tags":[]}', '{ "tags": [], "name": "a" }')
    answers = [running.client.post(PATH, content=body, headers=headers) for body in bodies]
    assert answers[0].content == answers[1].content


WAYS_TO_SEND: dict[str, Callable[[str], dict[str, Any]]] = {
    "form": lambda item: {"data": {"item": item}},
    "file": lambda item: {"files": {"item": ("item.txt", item.encode())}},
    "data": lambda item: {"content": item, "headers": {"Content-Type": "text/plain"}},
    "json": lambda item: {"json": {"item": item}},
    "chunks": lambda item: {"content": iter([item.encode(), b" " * 70_000])},
}


@pytest.mark.parametrize(
    ("path", "sent", "read_first"),
    [
        ("form", "form", ""),
        ("form", "form", "form"),
        ("data", "form", "data"),
        ("file", "file", ""),
        ("file", "file", "form"),
        ("data", "data", ""),
        ("data", "data", "data"),
        ("data", "json", "form"),
        ("stream", "data", ""),
        ("stream", "json", ""),
        ("stream", "file", ""),
        ("stream", "chunks", ""),
        ("unread", "data", "stream"),
        ("unread", "form", "form"),
        ("unread", "file", "stream"),
        ("unread", "json", "data"),
        ("unread", "chunks", "stream"),
    ],
)
def test_a_key_is_for_one_body_whoever_reads_it_first_and_however(
    running: Running, path: str, sent: str, read_first: str
) -> None:
    def order(item: str) -> httpx.Response:
        given = WAYS_TO_SEND[sent](item)
        headers = {"Idempotency-Key": "k", "X-Read-First": read_first, **given.pop("headers", {})}
        return running.client.post(f"/orders/{path}", headers=headers, **given)

    first, again, other = order("book"), order("book"), order("lamp")
    assert (first.status_code, again.status_code, other.status_code) == (200, 200, 422)
    assert ("book" in first.text) is (path != "unread")
    assert first.content == again.content
    assert again.headers["idempotency-replayed"] == "true"
    assert len(running.subject.calls) == 1


def test_while_the_first_is_under_way_others_are_told_to_come_back(running: Running) -> None:
    with ThreadPoolExecutor(5) as threads:
        asking = [threads.submit(post, running, "k", "slow") for _ in range(5)]
        eventually(lambda: sum(each.done() for each in asking) == 4)
        running.subject.released.set()
        answers = [each.result() for each in asking]
    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 4}
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert int(refused.headers["retry-after"]) >= 1
    assert len(running.subject.calls) == 1


@pytest.mark.parametrize("key", ["k-1", '"k-1"', "x" * 255, "'; drop table items; --", "!~"])
def test_a_key_is_visible_ascii_bare_or_quoted(running: Running, key: str) -> None:
    key = key.replace(" ", "_")
    assert post(running, key).status_code == 201


def test_a_quoted_key_is_the_same_as_the_bare_one(running: Running) -> None:
    post(running, "k")
    assert post(running, '"k"').headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("key", ["", '""', "a b", "x" * 256, "é", "\U0001f600"])
def test_a_key_of_another_form_is_a_400(running: Running, key: str) -> None:
    headers = {b"Idempotency-Key": key.encode()}
    answer = running.client.post(PATH, json={"name": "a"}, headers=headers)
    assert answer.status_code == 400
    assert running.subject.calls == []


def test_two_keys_in_one_request_are_a_400(running: Running) -> None:
    if running.framework == "flask":
        pytest.skip("WSGI servers join them by a comma, and a key may hold one")
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert running.client.post(PATH, json={"name": "a"}, headers=headers).status_code == 400


def test_a_refusal_of_the_handler_is_given_again(running: Running) -> None:
    first, second = post(running, "k", "taken"), post(running, "k", "taken")
    assert (first.status_code, second.status_code) == (409, 409)
    assert first.content == second.content
    assert second.headers["idempotency-replayed"] == "true"
    assert len(running.subject.calls) == 1


def test_a_failure_is_not_kept(running: Running) -> None:
    assert post(running, "k", "broken").status_code == 500
    assert post(running, "k", "broken").status_code == 500
    assert len(running.subject.calls) == 2


def test_an_answer_that_is_too_long_to_be_stored_keeps_no_key(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(idempotency, "MAX_STORED_BYTES", 10)
        assert post(running, "k").status_code == 500
    (line,) = running.lines()
    assert "may have 10" in line["stack"]
    answer = post(running, "k")
    assert (answer.status_code, "idempotency-replayed" in answer.headers) == (201, False)


def test_a_body_that_does_not_fit_keeps_no_key(running: Running) -> None:
    assert post(running, "k", "x" * 30).status_code == 422
    assert post(running, "k").status_code == 201


def test_a_key_is_its_principals_own(run: Callable[..., Running]) -> None:
    running = run(jwt_secret_key="a secret of at least thirty-two bytes")
    for subject in ("user-1", "user-2"):
        token = running.service.tokens.issue(subject)
        answer = post(running, "k", headers={"Authorization": f"Bearer {token}"})
        assert "idempotency-replayed" not in answer.headers
    assert len(set(running.subject.calls)) == 2


def test_a_key_is_for_one_address_and_not_for_its_route(running: Running) -> None:
    paths = ("/items/1/pay", "/items/2/pay", "/items/2/pay?coin=penny")
    answers = [running.client.post(path, headers={"Idempotency-Key": "k"}) for path in paths]
    assert [answer.json() for answer in answers] == ["1 ", "2 ", "2 penny"]
    assert len(set(running.subject.calls)) == 3


def test_the_id_of_the_work_is_the_same_when_it_is_tried_again(running: Running) -> None:
    post(running, "k", "broken")
    post(running, "k", "broken")
    assert len(set(running.subject.calls)) == 1


def test_the_id_of_the_work_is_the_keys_also_when_it_was_asked_for_before(
    running: Running,
) -> None:
    for _ in range(2):
        running.client.post("/named-late", headers={"Idempotency-Key": "k"})
    assert len(running.subject.calls) == 2
    assert len(set(running.subject.calls)) == 1


def test_many_clients_with_one_key_have_one_effect(running: Running) -> None:
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda i: post(running, f"k{i % 20}"), range(200)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len(running.subject.calls) == len(set(running.subject.calls)) == 20


def test_a_route_may_take_no_request_without_a_key(running: Running) -> None:
    answer = running.client.post("/only-keyed")
    assert answer.status_code == 400
    assert "Idempotency-Key" in answer.json()["detail"]
    works = [running.client.post("/only-keyed", headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert works[0].content == works[1].content
