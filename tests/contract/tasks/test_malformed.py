"""No message stops a worker, jams it or vanishes, whatever is in it."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from mainstay.context import new_id
from mainstay.resources.redis.client import connect
from mainstay.tasks.status import State
from mainstay.testing import eventually
from tests.contract.tasks.rooms import CeleryRoom, worker_of
from tests.waiting import PATIENCE_SECONDS

GOOD_BODY = json.dumps([[1, 2], {}, {"callbacks": None, "errbacks": None}])


def headers(**changes: Any) -> dict[str, Any]:
    """Return the headers of a sound message for `add`, changed; ``...`` takes one out."""
    sound = {
        "lang": "py",
        "task": "add",
        "id": new_id(),
        "root_id": new_id(),
        "parent_id": None,
        "group": None,
        "eta": None,
        "expires": None,
        "retries": 0,
        "timelimit": [None, None],
    }
    return {name: value for name, value in (sound | changes).items() if value is not ...}


DEEP = "[" * 100_000 + "]" * 100_000
NESTED = json.dumps([[1, 2], {}, None]).replace("1", "[" * 900 + "]" * 900)

# A body, headers, properties, and what the dead letter's reason begins with.
CORPUS: list[tuple[str, Any, dict[str, Any], dict[str, Any], str]] = [
    ("an object", '{"a":1}', {}, {}, "malformed:body"),
    ("null", "null", {}, {}, "malformed:body"),
    ("an empty list", "[]", {}, {}, "malformed:body"),
    ("a number", "5", {}, {}, "malformed:body"),
    ("four parts", "[[], {}, {}, {}]", {}, {}, "malformed:body"),
    ("nothing", "", {}, {}, "malformed:body"),
    ("a string", '"x"', {}, {}, "malformed:body"),
    ("args an int", "[5, {}, {}]", {}, {}, "malformed:args"),
    ("kwargs a list", "[[1, 2], [], {}]", {}, {}, "malformed:kwargs"),
    ("embed a string", '[[1, 2], {}, "x"]', {}, {}, "malformed:embed"),
    ("a chain of numbers", '[[1, 2], {}, {"chain": [5]}]', {}, {}, "malformed:embed"),
    ("errbacks a string", '[[1, 2], {}, {"errbacks": "x"}]', {}, {}, "malformed:embed"),
    ("not JSON", "{nonsense", {}, {}, "decode:"),
    ("not UTF-8", b"\xff\xfe\x00", {}, {}, "decode:"),
    ("100,000 deep", DEEP, {}, {}, "decode:"),
    ("900 deep", NESTED, {}, {}, "too-deep"),
    ("too large", json.dumps([["x" * 1_200_000], {}, {}]), {}, {}, "too-large"),
    ("no id", GOOD_BODY, {"id": ...}, {}, "malformed:id"),
    ("id a table", GOOD_BODY, {"id": {"a": 1}}, {}, "malformed:id"),
    ("id an int", GOOD_BODY, {"id": 5}, {}, "malformed:id"),
    ("id too long", GOOD_BODY, {"id": "x" * 300}, {}, "malformed:id"),
    ("task a table", GOOD_BODY, {"task": {"a": 1}}, {}, "malformed:task"),
    ("task an int", GOOD_BODY, {"task": 5}, {}, "malformed:task"),
    ("no task", GOOD_BODY, {"task": ...}, {}, "malformed:headers"),
    ("task half a pair", GOOD_BODY, {"task": "x\ud800"}, {}, "malformed:task"),
    ("id half a pair", GOOD_BODY, {"id": "x\ud800"}, {}, "malformed:id"),
    ("root half a pair", GOOD_BODY, {"root_id": "x\ud800"}, {}, "malformed:root_id"),
    ("another task", GOOD_BODY, {"task": "os.system"}, {}, "unknown-task"),
    ("timelimit a string", GOOD_BODY, {"timelimit": "abc"}, {}, "malformed:timelimit"),
    ("timelimit strings", GOOD_BODY, {"timelimit": ["a", "b"]}, {}, "malformed:timelimit"),
    ("retries a string", GOOD_BODY, {"retries": "x"}, {}, "malformed:retries"),
    ("eta far away", GOOD_BODY, {"eta": "9999-12-31T23:59:59+00:00"}, {}, "malformed:eta"),
    ("eta garbage", GOOD_BODY, {"eta": "soon"}, {}, "malformed:eta"),
    ("eta an int", GOOD_BODY, {"eta": 5}, {}, "malformed:eta"),
    ("expires garbage", GOOD_BODY, {"expires": "later"}, {}, "malformed:expires"),
    ("expired", GOOD_BODY, {"expires": "2001-01-01T00:00:00+00:00"}, {}, "expired"),
    ("a chain in the headers", GOOD_BODY, {"chain": [5]}, {}, "malformed:headers"),
    ("stamps garbage", GOOD_BODY, {"stamped_headers": 5}, {}, "malformed:stamped_headers"),
    ("unknown content", GOOD_BODY, {}, {"content_type": "text/x-none"}, "decode:"),
    (
        "a pickle",
        b"\x80\x04K\x05.",
        {},
        {"content_type": "application/x-python-serialize", "content_encoding": "binary"},
        "decode:",
    ),
    ("unknown compression", GOOD_BODY, {"compression": "x-none"}, {}, "decode:"),
    ("wrong compression", GOOD_BODY, {"compression": "application/x-gzip"}, {}, "decode:"),
    ("protocol 1", '{"task": "add", "id": "x"}', {"task": ..., "id": ...}, {}, "malformed:headers"),
]


def test_malformed_messages_are_dead_letters_and_sound_ones_are_done(
    working_room: CeleryRoom,
) -> None:
    before = {letter.position for letter in working_room.dead()}
    sound = []
    for _what, body, changes, properties, _reason in CORPUS:
        working_room.publish(body, headers(**changes), **properties)
        sound.append(working_room.send("add", 1, 2))
    for id in sound:
        assert working_room.ended(id).state is State.SUCCESS

    def buried() -> list[str]:
        letters = [each for each in working_room.dead() if each.position not in before]
        assert len(letters) >= len(CORPUS), [letter.reason for letter in letters]
        return [letter.reason for letter in letters]

    reasons = eventually(buried)
    missing = []
    for what, _body, _changes, _properties, reason in CORPUS:
        matching = [each for each in reasons if each.startswith(reason)]
        if matching:
            reasons.remove(matching[0])
        else:
            missing.append(f"{what}: {reason}")
    assert (missing, reasons) == ([], [])


# A body, headers, and the reason. No sender has kept a status of these.
DEAD_EARLY: list[tuple[str, dict[str, Any], str]] = [
    (GOOD_BODY, {"task": "no.such_task"}, "unknown-task"),
    (GOOD_BODY, {"expires": "2001-01-01T00:00:00+00:00"}, "expired"),
    (json.dumps([["x" * 1_200_000], {}, {}]), {}, "too-large"),
    (NESTED, {}, "too-deep"),
    ("{nonsense", {}, "decode:"),
    ("[]", {}, "malformed:body"),
    (GOOD_BODY, {"eta": "soon"}, "malformed:eta"),
    (GOOD_BODY, {"task": "x" * 300}, "malformed:task"),
    (GOOD_BODY, {"task": "\x00" * 255}, "unknown-task"),
    (GOOD_BODY, {"task": {"a": 1}}, "malformed:task"),
]


def test_the_status_of_a_message_that_is_never_begun_names_its_task_and_queue(
    working_room: CeleryRoom,
) -> None:
    for body, changes, reason in DEAD_EARLY:
        sent = headers(**changes)
        working_room.publish(body, sent)
        status = working_room.ended(sent["id"])
        name = sent["task"] if isinstance(sent["task"], str) else ""
        shown = name.replace("\x00", "\\x00")[:255]
        assert (status.state, status.name, status.queue) == (
            State.FAILURE,
            shown,
            working_room.queue,
        )
        assert working_room.letter(sent["id"]).reason.startswith(reason)


def test_the_status_of_a_message_that_was_called_off_names_its_task(
    working_room: CeleryRoom,
) -> None:
    sent = headers()
    working_room.app.control.revoke(sent["id"])
    worker = worker_of(working_room)
    eventually(lambda: sent["id"] in working_room.revoked(worker))
    working_room.publish(GOOD_BODY, sent)
    status = working_room.ended(sent["id"])
    assert (status.state, status.name) == (State.REVOKED, "add")


def test_a_message_whose_arguments_do_not_fit_fails_and_is_no_retry(
    working_room: CeleryRoom,
) -> None:
    id = new_id()
    working_room.publish(json.dumps([[1, 2, 3, 4], {}, {}]), headers(id=id))
    assert working_room.letter(id).reason == "failed:TypeError"


def test_a_message_is_decompressed_to_its_limit_and_no_further(working_room: CeleryRoom) -> None:
    id = new_id()
    zeros = zlib.compress(bytes(100_000_000))
    compressed = headers(id=id, compression="application/x-gzip")
    working_room.publish(zeros, compressed, content_encoding="binary")
    letter = working_room.letter(id)
    assert (letter.reason, letter.body) == ("too-large", zeros)
    assert working_room.ended(working_room.send("add", 1, 2, compression="zlib")).result == 3


def test_a_header_that_no_store_can_hold_is_no_trouble(working_room: CeleryRoom) -> None:
    id = new_id()
    working_room.publish(GOOD_BODY, headers(id=id, task="no_such_task", strange="x\ud800"))
    assert working_room.letter(id).headers["strange"] == "x\\ud800"
    assert working_room.ended(working_room.send("add", 1, 2)).result == 3


@pytest.mark.parametrize(
    "item",
    [
        b"",
        b"not JSON",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b'{"body": 5, "properties": {}}',
        b'{"body": "!", "headers": [], "properties": {"delivery_tag": 1}}',
        b'{"body": "%%%", "properties": {"delivery_tag": "x", "body_encoding": "base64"}}',
        b'{"properties": {"body_encoding": "rot13", "delivery_tag": "a", "delivery_info": 5}}',
        b'{"body": 5, "headers": {"task": "add", "id": "1"}, "properties": {}}',
    ],
)
def test_a_broken_item_of_a_redis_list_is_a_dead_letter(
    shared: Callable[[str], CeleryRoom], item: bytes
) -> None:
    working_room = shared("redis")
    client = connect(working_room.url)
    before = len(working_room.dead())
    client.lpush(working_room.queue, item)
    assert working_room.ended(working_room.send("add", 1, 2)).result == 3
    eventually(lambda: len(working_room.dead()) == before + 1)
    assert working_room.dead()[-1].envelope == item


def test_messages_that_share_a_delivery_tag_are_kept_apart(
    shared: Callable[[str], CeleryRoom],
) -> None:
    working_room = shared("redis")
    client = connect(working_room.url)
    ids = [new_id() for _ in range(5)]
    for id in ids:
        envelope = {
            "body": base64.b64encode(GOOD_BODY.encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers(id=id),
            "properties": {
                "delivery_tag": "the same",
                "delivery_info": {"exchange": "", "routing_key": working_room.queue},
                "body_encoding": "base64",
            },
        }
        client.lpush(working_room.queue, json.dumps(envelope))
    for id in ids:
        assert working_room.ended(id).result == 3


def test_malformed_remote_control_leaves_the_worker_alone(working_room: CeleryRoom) -> None:
    control = working_room.app.control.mailbox.exchange
    with working_room.app.connection_for_write() as connection:
        producer = connection.Producer(auto_declare=False)
        for body in (b"nonsense", b"[]", b'{"method": 5}', b"\xff", DEEP.encode()):
            producer.publish(
                body,
                exchange=control,
                declare=[control],
                content_type="application/json",
                content_encoding="utf-8",
            )
    assert working_room.ended(working_room.send("add", 1, 2)).result == 3


def test_an_answer_to_remote_control_is_put_into_no_queue(working_room: CeleryRoom) -> None:
    mailbox = working_room.app.control.mailbox
    before = [letter.id for letter in working_room.dead()]
    forged = {"exchange": "", "routing_key": working_room.queue}
    with working_room.app.connection_for_write() as connection:
        connection.Producer(auto_declare=False).publish(
            {"method": "ping", "arguments": {}, "destination": None, "reply_to": forged},
            exchange=mailbox.exchange,
            declare=[mailbox.exchange],
            serializer="json",
        )
    # One after the other: the answer to the forged one would be there by now.
    assert working_room.app.control.ping(timeout=PATIENCE_SECONDS, limit=1)
    assert working_room.ended(working_room.send("add", 1, 2)).result == 3
    assert [letter.id for letter in working_room.dead()] == before


def test_what_is_no_remote_control_leaves_the_worker_alone(
    shared: Callable[[str], CeleryRoom],
) -> None:
    working_room = shared("redis")
    client = connect(working_room.url)
    worker = working_room.shared
    assert worker is not None
    for text in ("nonsense", "5", "[]", "{}", '{"a":' * 100_000 + "1" + "}" * 100_000):
        client.publish("/0.celery.pidbox", text)
    assert working_room.ended(working_room.send("add", 1, 2)).result == 3
    assert working_room.app.control.ping(timeout=PATIENCE_SECONDS, limit=1)
    assert worker.is_running
