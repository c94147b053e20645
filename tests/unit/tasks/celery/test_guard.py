from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from celery import chain, group
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.json import dumps

from mainstay.config import Settings
from mainstay.tasks.celery import create_celery_app
from mainstay.tasks.celery.guard import Limits, Surprise, depth_of, surprise

LIMITS = Limits(body_bytes=10_000)


def message(body: Any = None, **headers: Any) -> Any:
    text = json.dumps([[], {}, {}]) if body is None else body
    sound = {"task": "add", "id": "1"}
    return SimpleNamespace(
        headers={**sound, **headers}, body=text.encode(), payload=json.loads(text)
    )


def test_a_sound_message_is_no_surprise() -> None:
    soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    sound = message(eta=soon, expires=soon, retries=2, timelimit=[10, 5.5], stamped_headers=["a"])
    assert surprise(sound, LIMITS) is None


def test_a_message_that_came_back_too_often_is_one() -> None:
    found = surprise(message(**{"x-delivery-count": 5}), LIMITS)
    assert found is not None
    assert found.reason == "delivery-limit"
    assert surprise(message(**{"x-delivery-count": 4}), LIMITS) is None


@pytest.mark.parametrize("body", [5, 1.5, True, ["x"], {"x": 1}])
def test_a_body_is_text_or_bytes(body: Any) -> None:
    found = surprise(SimpleNamespace(headers={"task": "add", "id": "1"}, body=body), LIMITS)
    assert found is not None
    assert found.reason == "malformed:body"


def test_a_decoder_may_raise_anything() -> None:
    class Broken:
        headers: ClassVar[dict[str, str]] = {"task": "add", "id": "1"}
        body = b"x"

        @property
        def payload(self) -> object:
            raise RecursionError

    found = surprise(Broken(), LIMITS)
    assert found == Surprise("decode:RecursionError", "")


def test_what_celery_itself_sends_is_no_surprise() -> None:
    app = create_celery_app(Settings(env="test", celery_broker_url="memory://"))
    app.conf.result_backend = "cache+memory://"

    @app.task(name="add", shared=False)
    def add(a: int, b: int) -> int:
        return a + b

    after = add.s(1)
    after.link_error(add.si(1, 1))
    first = add.s(1, 1).set(link=after, link_error=[add.si(2, 2)])
    sent: list[Any] = []

    def send(_producer: object, _name: str, message: Any, **_: object) -> None:
        text = dumps(message.body)
        sent.append(
            SimpleNamespace(headers=message.headers, body=text.encode(), payload=json.loads(text))
        )

    app.amqp.send_task_message = send
    for work in (first, chain(first, group(after, after), after), group(first, first)):
        work.apply_async()
    assert len(sent) == 4
    assert [surprise(each, LIMITS) for each in sent] == [None] * 4
    assert sent[0].payload[2]["callbacks"]
    assert sent[1].payload[2]["chain"]


@pytest.mark.parametrize(
    "following",
    [
        {"callbacks": {}},
        {"errbacks": [5]},
        {"chain": ["add"]},
        {"chain": [{}]},
        {"chain": [{"task": "add", "options": []}]},
        {"chain": [{"task": 5, "options": {}}]},
        {"callbacks": [{"task": "add", "args": 5, "options": {}}]},
        {"chord": []},
    ],
)
def test_what_follows_on_a_task_is_read_before_it_is_begun(following: dict[str, Any]) -> None:
    in_body = surprise(message(json.dumps([[], {}, following])), LIMITS)
    assert in_body is not None
    assert in_body.reason == "malformed:embed"
    in_headers = surprise(message(**following), LIMITS)
    assert in_headers is not None
    assert in_headers.reason == "malformed:headers"


def test_depth_is_counted_and_bounded() -> None:
    assert depth_of(1) == 0
    assert depth_of([{"a": [1]}, 2]) == 3
    assert depth_of([[[]]], 2) is None


headers = st.dictionaries(
    st.sampled_from(
        [
            "task",
            "id",
            "eta",
            "expires",
            "timelimit",
            "retries",
            "stamps",
            "stamped_headers",
            "group",
            "shadow",
            "root_id",
            "chain",
            "chord",
            "x-delivery-count",
        ]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=4,
    ),
)
bodies = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(headers, bodies)
def test_whatever_comes_is_sound_or_a_reason(made: dict[str, Any], body: Any) -> None:
    came = SimpleNamespace(headers=made, body=b"x", payload=body)
    found = surprise(came, LIMITS)
    assert found is None or found.reason.partition(":")[0] in {
        "malformed",
        "expired",
        "delivery-limit",
        "too-deep",
    }
